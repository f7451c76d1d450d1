"""``python -m futurefill_kernels env``: versions, what runs here, and why the rest does not."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

import torch

from .. import native
from .._version import __version__
from ..implementations import triton
from ..implementations.select import ON_GPUS, cannot_run
from ..planning.this_cpu import find_rates


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``env`` has no options."""


def run(args: argparse.Namespace) -> None:
    """Print the report."""
    print(report())


def report() -> str:
    """Versions, devices, and every implementation's reasons per device."""
    lines = [
        f"futurefill_kernels {__version__}",
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}",
        f"threads: {torch.get_num_threads()}",
    ]
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    else:
        lines.append("cuda: no device that torch can use")
    if native.cpu_unavailable_reason() is None:
        lines.append(f"instruction set: {native.cpu_isa()}")
        reason = native.plain_step_unavailable_reason()
        lines.append(f"step without Python: {'available' if reason is None else reason}")
        reason = native.unchanged_unavailable_reason()
        lines.append(f"look at a model without Python: {'available' if reason is None else reason}")
    lines.append(f"rates of the CPU: {find_rates(measure=False).source}")
    if native.cuda_unavailable_reason() is None:
        lines.append(f"CUDA kernels: {native.cuda_architectures()}")
    lines.append(_triton())
    for device in devices:
        how = "the first that is available is 'auto'"
        if device.type == "cuda":
            how = (
                "'auto' takes for steps, prompts and each level's fills whichever was fastest of "
                f"{' and '.join(ON_GPUS)}, then the first"
            )
        lines.append(f"implementations on {device}, {how}:")
        for name, reasons in cannot_run(device, torch.float32).items():
            lines.append(f"  {name:<10} {'; '.join(reasons) if reasons else 'available'}")
    return "\n".join(lines)


def _triton() -> str:
    """Its version, and whether tests have run with it."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "triton: not installed"
    note = triton.version_note(version)
    return f"triton {version}" + (f": {note}" if note else "")
