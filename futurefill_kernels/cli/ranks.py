"""``--tensor-parallel``: a command on several ranks of this machine, which torchrun starts."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta

import torch
from torch import distributed, nn

from ..nn.parallel.plan import cannot_be_cut, parallel_plan

#: Seconds that a rank waits for another one before it gives up.
TIME_OUT = 60
#: Seconds between torchrun's looks at its ranks. It ends those beside one that has died, which
#: shall have time to say so.
LOOK_EVERY = 1


def add_ranks_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--tensor-parallel``."""
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="ranks that the channels are cut over, each a process (on a GPU of its own); one that "
        f"waits {TIME_OUT} s for another gives up",
    )


def check_ranks(n: int, device: torch.device) -> None:
    """ValueError or RuntimeError where n ranks cannot be."""
    if n < 1:
        raise ValueError(f"expected --tensor-parallel >= 1, got {n}")
    if n > 1 and not distributed.is_available():
        raise RuntimeError("--tensor-parallel needs torch.distributed, which this torch has not")
    if n > 1 and device.type == "cuda" and n > torch.cuda.device_count():
        raise RuntimeError(
            f"--tensor-parallel {n} needs as many GPUs, torch finds {torch.cuda.device_count()}"
        )


def started() -> bool:
    """Whether torchrun has started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def start(n: int, arguments: Sequence[str]) -> None:
    """The same command on n ranks; RuntimeError where they end with an error, which they print."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    torchrun += ["--monitor-interval", str(LOOK_EVERY)]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, "-m", "futurefill_kernels", *arguments], check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{n} ranks ended with status {done.returncode}; what each of them said stands above"
        )


@contextmanager
def on_ranks(n: int, model: nn.Module, device: torch.device) -> Iterator[torch.device]:
    """Inside, this process is one of n ranks, the model is cut over them, and only the first rank
    writes. Gives the device of this rank, on which the model is. With n = 1 nothing is cut.

    device: GPUs have one rank each, and NCCL between them; on the CPU gloo is.
    """
    if n == 1:
        model.to(device)
        yield device
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import parallelize_module

    backend = "gloo"
    if device.type == "cuda":
        backend, device = "nccl", torch.device("cuda", distributed.get_node_local_rank())
        torch.cuda.set_device(device)
    distributed.init_process_group(backend, timeout=timedelta(seconds=TIME_OUT))
    try:
        if distributed.get_world_size() != n:
            raise ValueError(
                f"expected --tensor-parallel {distributed.get_world_size()}, the number of ranks "
                f"that torchrun has started, got {n}"
            )
        mesh = init_device_mesh(device.type, (n,))
        parallelize_module(model.to(device), mesh, parallel_plan(model))
        with ExitStack() as stack:
            if distributed.get_rank() > 0:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield device
    finally:
        distributed.destroy_process_group()


def check_divides(model: nn.Module, n: int) -> None:
    """ValueError where n ranks do not divide a model."""
    reasons = cannot_be_cut(model, n)
    if reasons:
        more = f" (and {len(reasons) - 1} more like this)" if len(reasons) > 1 else ""
        raise ValueError(f"--tensor-parallel {n}: {reasons[0]}{more}")
