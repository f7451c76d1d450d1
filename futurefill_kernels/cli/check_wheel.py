"""``python -m futurefill_kernels check-wheel``: what the installed library holds.

Checks that the ops are registered for the CPU and CUDA keys, and with cuobjdump (from the PATH, a
CUDA toolkit or Triton's wheel) that the library has code for every architecture it claims.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import torch

from .. import native

#: dispatch key -> ops that must have a kernel for it
REGISTERED = {
    "CPU": (
        *("step", "bind", "generate", "future_fill", "fill_share"),
        *("offline_conv", "token"),
    ),
    "CUDA": (
        *("history", "apply_step", "future_fill", "early_fill", "long_fill"),
        *("prefill_inputs", "prefill_outputs"),
    ),
}
DEFAULT_ARCHITECTURES = "80,86,89,90,100,120"


def find_cuobjdump() -> str | None:
    """Path of a cuobjdump, or None."""
    found = shutil.which("cuobjdump")
    if found:
        return found
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    return next((str(f / "cuobjdump") for f in folders if (f / "cuobjdump").exists()), None)


def code_in(library: Path, cuobjdump: str) -> tuple[set[int], set[int]]:
    """Architectures with machine code and with PTX in a library: ({80, ...}, {120})."""
    found = []
    for option, ending in (("--list-elf", "cubin"), ("--list-ptx", "ptx")):
        result = subprocess.run([cuobjdump, option, str(library)], capture_output=True, text=True)
        found.append({int(n) for n in re.findall(rf"\.sm_(\d+)\.{ending}", result.stdout)})
    return found[0], found[1]


def problems(architectures: set[int]) -> list[str]:
    """What is missing in the installed library; prints what is there."""
    if native.unavailable_reason is not None:
        return [native.unavailable_reason]
    missing = []
    for key, ops in REGISTERED.items():
        for op in ops:
            qualified = f"futurefill_kernels::{op}"
            if torch._C._dispatch_has_kernel_for_dispatch_key(qualified, key):
                print(f"{key:<5} {op}")
            else:
                missing.append(f"{op} has no kernel for the {key} key")
    reason = native.plain_step_unavailable_reason()
    if reason is None:
        print("CPU   step without Python")
    else:
        missing.append(f"step without Python: {reason}")
    reason = native.unchanged_unavailable_reason()
    if reason is None:
        print("CPU   look at a model without Python")
    else:
        missing.append(f"look at a model without Python: {reason}")
    if native.cuda_unavailable_reason() is not None:
        return [*missing, str(native.cuda_unavailable_reason())]
    library = native.library_file()
    assert library is not None
    print(f"{library.name}: {library.stat().st_size / 1e6:.1f} MB")
    claimed = native.cuda_architectures()
    print(f"built for {claimed}")
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        return [*missing, "no cuobjdump to look at the code: install triton or a CUDA toolkit"]
    code, ptx = code_in(library, cuobjdump)
    print(f"code: {', '.join(f'sm_{a}' for a in sorted(code))}")
    print(f"PTX: {', '.join(f'sm_{a}' for a in sorted(ptx))}")
    machine, _, forward = claimed.partition(" and PTX of ")
    architectures = architectures | {int(a[3:]) for a in machine.split(", ")}
    missing += [f"no code for sm_{a}" for a in sorted(architectures - code)]
    missing += [f"no PTX of {a}" for a in forward.split(", ") if a and int(a[3:]) not in ptx]
    if not ptx:
        missing.append("no PTX for later architectures")
    return missing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``check-wheel``."""
    parser.add_argument(
        "--architectures",
        default=DEFAULT_ARCHITECTURES,
        help="comma-separated architectures that must be there",
    )


def run(args: argparse.Namespace) -> None:
    """Print what is there, "complete" last. Raises RuntimeError with what is missing."""
    missing = problems({int(a) for a in args.architectures.split(",") if a})
    if missing:
        raise RuntimeError("missing: " + "; ".join(missing))
    print("complete")
