"""Stage: versions, the card, what can run on it, and the bandwidth that it reaches."""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import subprocess
import sys

import torch

from futurefill_kernels.cli.device import resolve_device
from futurefill_kernels.cli.env import report
from futurefill_kernels.implementations.select import cannot_run

from ..harness import machine
from .stages import SUMMARY

EXPECTED = {"cuda": ("cuda", "triton"), "cpu": ("cpu", "reference")}


def main() -> int:
    """Print; returns 1 where an implementation cannot run that should."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    device = resolve_device(parser.parse_args().device)
    print(report())
    for name in ("triton", "numpy", "pytest", "hypothesis"):
        try:
            print(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{name}: not installed")
    if shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi"], check=False)
    bandwidth, _ = machine.roofs(torch.get_num_threads(), device)
    reasons = cannot_run(device, torch.float32)
    missing = [name for name in EXPECTED[device.type] if reasons[name]]
    for name in missing:
        print(f"{name} cannot run: {'; '.join(reasons[name])}")
    able = ", ".join(name for name, against in reasons.items() if not against)
    print(
        f"{SUMMARY}{machine.device_name(device)}, {bandwidth / 1e9:.0f} GB/s, torch "
        f"{torch.__version__}, Python {sys.version.split()[0]}, runs {able}"
        + (f", NOT {', '.join(missing)}" if missing else "")
    )
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
