"""Errors over step sizes, and the order of convergence that they show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor


def errors(
    solve: Callable[[int], Tensor], exact: Tensor | float, steps: Sequence[int]
) -> list[float]:
    """Largest error of the last value for each number of steps."""
    return [float((solve(n) - exact).abs().max()) for n in steps]


def order(found: Sequence[float]) -> float:
    """Slope of the last two errors, the step having been halved."""
    return math.log2(found[-2] / found[-1])
