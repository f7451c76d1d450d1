"""Rates of a GPU, for ``tune``."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def measure_gpu(device: torch.device, *, scale: int = 1 << 28) -> dict[str, float]:
    """Bandwidth of a copy, float32 rate of a matrix product without TF32, and a launch.

    scale: float32 values copied; matrices are ``sqrt(scale) / 2`` wide. Any device of torch works.
    """
    source = torch.zeros(scale, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copied = _device_seconds(device, lambda: target.copy_(source), 10)
    width = int(scale**0.5) // 2
    a = torch.randn(width, width, dtype=torch.float32, device=device)
    out = torch.empty_like(a)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        product = _device_seconds(device, lambda: torch.mm(a, a, out=out), 10)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    small = torch.zeros(32, dtype=torch.float32, device=device)
    launch = _device_seconds(device, lambda: small.add_(1), 2000)
    return {
        "dram_bytes_per_second": 2 * source.nbytes / copied,
        "fp32_flops": 2 * width**3 / product,
        "launch_seconds": launch,
    }


def _device_seconds(device: torch.device, call: Callable[[], object], repeats: int) -> float:
    """Seconds of one of many calls after each other."""
    call()
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
