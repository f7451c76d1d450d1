"""The machine a row comes from: names, versions, commit, and roofs measured here and now."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import torch

import futurefill_kernels as ff
from futurefill_kernels import native
from futurefill_kernels.planning.memory import available_nbytes

from .timing import measure

ROOT = Path(__file__).parents[2]


CPU = torch.device("cpu")


@lru_cache
def describe(device: torch.device = CPU) -> dict[str, str]:
    """Fields of every row that do not change within a run."""
    return {
        "device": device_name(device),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "version": ff.__version__,
        "commit": commit(),
    }


def device_name(device: torch.device = CPU) -> str:
    """The GPU's name, or a processor's with the instruction set of the kernels."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    isa = "torch" if native.cpu_unavailable_reason() else native.cpu_isa()
    return f"{name} ({isa}, {os.cpu_count()} logical cores)"


def commit() -> str:
    """Short commit of the working tree, with + when files of the package or suite differ."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        changed = _git(
            "status", "--porcelain", "--", "futurefill_kernels", "csrc", "bench", ":!bench/results"
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@lru_cache
def roofs(threads: int, device: torch.device = CPU) -> tuple[float, float]:
    """Measured (bytes per second, float32 operations per second) with ``threads`` threads.

    Bytes: the best of five sums over an array larger than the caches. Operations: the best of
    five square matrix products, a fused multiply-add counting two.
    """
    torch.set_num_threads(threads)
    x = torch.ones(1 << (26 if device.type == "cpu" else 29), device=device)
    n = 1024 if device.type == "cpu" else 8192
    a = torch.ones(n, n, device=device)
    times = measure({"read": x.sum, "multiply": lambda: a @ a}, device=device, repeats=5)
    return x.nbytes / min(times["read"].seconds), 2 * n**3 / min(times["multiply"].seconds)


def check_memory(needed: int, what: str, device: torch.device = CPU) -> None:
    """Refuse what cannot fit. Raises ValueError with the bytes needed and those there are."""
    there = available_memory(device)
    if needed > there:
        raise ValueError(
            f"{what} needs {needed:,} bytes ({needed / 2**30:.1f} GiB), "
            f"{there:,} ({there / 2**30:.1f} GiB) are available"
        )


def available_memory(device: torch.device = CPU) -> int:
    """Bytes that an allocation can use now."""
    if device.type == "cuda":
        return available_nbytes(device)
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
