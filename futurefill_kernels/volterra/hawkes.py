"""Hawkes processes on a grid: counts whose intensity remembers all earlier counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .kernels import Kernel, as_kernel
from .march import BLOCK, Progress
from .memory import Memory
from .solution import grid


class HawkesPaths(NamedTuple):
    """times (N + 1,), the bins' ends; counts (N, paths) of events in each bin and intensity
    (N, paths), events per time.
    """

    times: Tensor
    counts: Tensor
    intensity: Tensor


@torch.no_grad()
def hawkes_paths(
    kernel: Kernel | Callable[[Tensor], Tensor],
    baseline: float | Callable[[float], float],
    t_end: float,
    steps: int,
    paths: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    impl: str = "auto",
) -> HawkesPaths:
    """Counts of the intensity ``lambda(t) = baseline(t) + sum over events s < t of k(t - s)``.

    kernel: not negative, one filter row, as in `solve_volterra`; its integral is the branching
        ratio, above 1 the counts explode. baseline: events per time, not negative.

    An integer-valued autoregression (Kirchner, Stochastic Processes and their Applications 126,
    2016): a bin's count is Poisson given the counts before it, and an event in bin i has on average
    the integral of k over step ``j - 1`` children in bin ``i + j``, so the branching ratio is kept.
    """
    times = grid(t_end, steps)
    if paths < 1:
        raise ValueError(f"expected paths >= 1, got {paths}")
    step = t_end / steps
    children = as_kernel(kernel).moments(step, steps)[0]
    if len(children) != 1 or not bool((children >= 0).all()):
        raise ValueError("expected a kernel of one filter row that is not negative")
    counts = torch.zeros(steps, paths, dtype=dtype, device=device)
    intensity = torch.zeros_like(counts)
    memory = Memory(children[None] / step, (paths,), dtype=dtype, device=device, impl=impl)
    given, sums, at = memory.input[0], memory.sums[0], times.tolist()
    for begin in range(0, steps, BLOCK):
        end = min(begin + BLOCK, steps)
        for n in range(begin, end):
            base = baseline(at[n]) if callable(baseline) else baseline
            if not base >= 0:
                raise ValueError(f"expected baseline >= 0, got {base} at t = {at[n]:.6g}")
            # transforms leave sums of nothing at +-1e-17
            rate = torch.add(sums.clamp(min=0), base, out=intensity[n])
            counts[n] = torch.poisson(rate * step, generator)
            given.copy_(counts[n])
            memory.advance()
        if progress is not None:
            progress(end, steps)
    return HawkesPaths(times.to(counts.device), counts, intensity)
