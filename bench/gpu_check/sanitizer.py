"""Stage: memcheck and racecheck of compute-sanitizer, where it is there, over a small stream."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import futurefill_kernels as ff
from futurefill_kernels.cli.device import resolve_device
from futurefill_kernels.implementations.select import cannot_run

from .stages import SUMMARY

TOOLS = ("memcheck", "racecheck")


def find() -> str | None:
    """The tool's path: on the PATH, or in a CUDA toolkit."""
    usual = Path("/usr/local/cuda/bin/compute-sanitizer")
    return shutil.which("compute-sanitizer") or (str(usual) if usual.exists() else None)


@torch.no_grad()
def small_stream(device: torch.device) -> None:
    """A prompt, steps of all rows and of some, and every kind of fill, by our kernels."""
    reasons = cannot_run(device, torch.float32)
    for impl in [name for name, against in reasons.items() if not against]:
        if impl == "reference":
            continue
        torch.manual_seed(0)
        h = [torch.randn(40, 70, device=device) / 8 for _ in range(2)]
        plan = ff.Plan(70, (4, 8, 32), slack_from=32)
        cache = ff.FutureFillCache(h, 2, 70, plan=plan, impl=impl)
        u = torch.randn(2, 40, device=device)
        for layer in range(2):
            cache.prefill(u[..., None].expand(-1, -1, 9).contiguous(), layer, lengths=[9, 5])
        for t in range(67):
            rows = [1, -1] if t == 60 else None
            for layer in range(2):
                cache.step(u, layer, rows=rows)
        if device.type == "cuda":
            torch.cuda.synchronize()
        print(f"{impl} ran")


@torch.no_grad()
def small_tokens(device: torch.device) -> None:
    """Tokens of the shipped model, of one row and of several, whose layers are fused kernels."""
    model = ff.nn.load_model().to(device)
    for rows in (1, 16):
        prompt = torch.full((rows, 5), 32, device=device)
        new = ff.decode(model, prompt, 4, plan=ff.Plan(4, (2,)), cuda_graph=False)
        print(f"{new.numel()} tokens of {rows} rows")


def errors_of(output: str) -> int | None:
    """Errors or hazards that the tool counted; None where it did not come that far."""
    found = re.findall(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", output)
    return sum(int(a or b) for a, b in found) if found else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stream alone, then under each tool. Returns 1 when one found something."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--stream", action="store_true", help="the stream itself")
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    small_stream(device)
    small_tokens(device)
    if args.stream:
        return 0
    tool = find() if device.type == "cuda" else None
    if tool is None:
        where = "compute-sanitizer is not there" if device.type == "cuda" else "no GPU"
        print(f"{SUMMARY}not checked: {where}")
        return 0
    program = [
        sys.executable,
        "-m",
        "bench.gpu_check.sanitizer",
        "--stream",
        "--device",
        args.device,
    ]
    found, wrong = [], False
    for name in TOOLS:
        done = subprocess.run(
            [tool, "--tool", name, *program], capture_output=True, text=True, check=False
        )
        print(done.stdout[-5000:], done.stderr[-2000:], flush=True)
        errors = errors_of(done.stdout + done.stderr)
        wrong |= errors != 0 or done.returncode != 0
        found.append(f"{name}: {'did not end' if errors is None else f'{errors} errors'}")
        print(f"{SUMMARY}{', '.join(found)}", flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
