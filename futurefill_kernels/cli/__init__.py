"""Commands of ``python -m futurefill_kernels``, one file each."""

from __future__ import annotations

from . import check_wheel, env, evaluate, generate, plan, train
from .tune import command as tune

#: name -> (module with add_arguments and run, help)
COMMANDS = {
    "generate": (generate, "generate text with the shipped byte-level model"),
    "plan": (plan, "print the block sizes for a stream and what they cost"),
    "tune": (tune, "measure this machine's rates for plans and store them"),
    "env": (env, "print versions, and which implementations can run or why not"),
    "check-wheel": (check_wheel, "print what the compiled library holds, and what is missing"),
    "train": (train, "train the byte-level model on the standard library's source"),
    "evaluate": (evaluate, "bits per byte of a model, in parallel and token by token"),
}
