"""Volterra integral equations of the second kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .implicit import Rate
from .kernels import Kernel, as_kernel
from .march import Progress, march
from .problem import checked_rate, initial_value, make_solver
from .rules import METHODS, product_rule
from .solution import Solution, grid


@torch.no_grad()
def solve_volterra(
    kernel: Kernel | Callable[[Tensor], Tensor],
    f: Rate,
    g: float | Sequence[float] | Tensor | Callable[[float], Tensor],
    t_end: float,
    steps: int,
    *,
    method: str = "trapezoid",
    corrections: int = 1,
    solver: str = "fixed-point",
    jacobian: Rate | None = None,
    tolerance: float | None = None,
    max_iterations: int = 100,
    progress: Progress | None = None,
    impl: str = "auto",
) -> Solution:
    """``y(t) = g(t) + integral over 0..t of k(t - s) f(s, y(s)) ds`` on a uniform grid.

    kernel: a function of times (n,) that is finite at 0 and smooth on every step; `PowerKernel`
        where it is singular; or any object with ``moments(step, count)`` (`Kernel`).
    g: constant, or a function of a number. Its shape is that of y; a number or a list becomes
        float64. Where the kernel has G filter rows, y is (G, ...).
    method: "trapezoid" (implicit, order 2 for smooth f), "predictor-corrector",
        "implicit-rectangle" or "rectangle" (explicit, order 1): docs/equations.md.
    The rest is as in `solve_caputo`, and so are the result and the errors.
    """
    if method not in METHODS:
        raise ValueError(f"expected method to be one of {', '.join(METHODS)}, got {method!r}")
    times = grid(t_end, steps)
    at = times.tolist()
    moving = g if callable(g) else None
    value = initial_value("g", g if moving is None else moving(0.0))  # type: ignore[arg-type]

    def offset(begin: int, end: int) -> Tensor:
        if moving is None:
            return value.expand(end - begin, *value.shape)
        return torch.stack([initial_value("g", moving(t), like=value) for t in at[begin:end]])

    scheme = product_rule(method, as_kernel(kernel), t_end / steps, steps)
    groups = scheme.taps.shape[1]
    if groups > 1 and value.shape[:1] != (groups,):
        raise ValueError(
            f"expected y (G, ...) with G = {groups}, the kernel's rows, got {tuple(value.shape)}"
        )
    values = march(
        scheme, checked_rate(f, value), offset, times, int(groups > 1),
        solver=make_solver(solver, jacobian, tolerance, max_iterations, corrections, value.dtype),
        progress=progress, impl=impl,
    )  # fmt: skip
    return Solution(times.to(value.device), values)
