"""Fractional differential equations: Caputo's derivative of order 0 < alpha < 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import weights
from .implicit import Rate
from .kernels import PowerKernel
from .march import Progress, Scheme, march
from .problem import checked_rate, initial_value, make_solver
from .rules import product_rule
from .solution import Solution, grid

#: method -> (least alpha, largest alpha), both excluded
METHODS = {
    "rectangle": (0.0, 2.0),
    "implicit-rectangle": (0.0, 2.0),
    "predictor-corrector": (0.0, 2.0),
    "trapezoid": (0.0, 2.0),
    "grunwald-letnikov": (0.0, 2.0),
    "l1": (0.0, 1.0),
    "bdf2": (0.0, 2.0),
}


@torch.no_grad()
def solve_caputo(
    f: Rate,
    alpha: float | Sequence[float] | Tensor,
    y0: float | Sequence[float] | Tensor,
    t_end: float,
    steps: int,
    *,
    method: str = "predictor-corrector",
    dy0: float | Sequence[float] | Tensor | None = None,
    corrections: int = 1,
    solver: str = "fixed-point",
    jacobian: Rate | None = None,
    tolerance: float | None = None,
    max_iterations: int = 100,
    progress: Progress | None = None,
    impl: str = "auto",
) -> Solution:
    """``D^alpha y = f(t, y)`` in the sense of Caputo, ``y(0) = y0``, on a uniform grid.

    f: (t, y) -> like y, of torch functions; t is a number, y has the shape and dtype of y0.
    alpha: a number, or a tensor whose shape is that of y0's leading dimensions: an order for each
        equation. dy0: ``y'(0)`` where alpha > 1, default 0.
    y0: any shape; a number or a list becomes float64. Leading dimensions are equations, which share
        a filter's memory.
    method: "rectangle" (explicit, order 1), "predictor-corrector" (explicit, Diethelm, Ford and
        Freed 2002, order min(2, 1 + alpha)), "implicit-rectangle", "trapezoid",
        "grunwald-letnikov", "l1" (order 2 - alpha), "bdf2" (order 2, also where y has powers
        ``t**alpha`` at 0): docs/equations.md.
    corrections: of a predictor-corrector; they cost evaluations of f and no history.
    solver: of an implicit method, "fixed-point" or "newton". jacobian: df/dy (*shape, d), the last
        dimension being coupled, or (*shape) where every entry depends on itself alone; default by
        torch.func. tolerance: of an iteration, relative to ``max(1, |y|)``.
    progress: called with the steps done and all steps. impl: of `FutureFillCache`.

    Returns times and values (steps + 1, ...). Raises ValueError or TypeError for arguments,
    RuntimeError with the step and the residual where an implicit step does not converge.
    """
    if method not in METHODS:
        raise ValueError(f"expected method to be one of {', '.join(METHODS)}, got {method!r}")
    value = initial_value("y0", y0)
    orders = torch.as_tensor(alpha, dtype=torch.float64, device="cpu")
    if orders.shape != value.shape[: orders.ndim]:
        raise ValueError(
            f"expected alpha to have the leading dimensions of y0 {tuple(value.shape)}, "
            f"got {tuple(orders.shape)}"
        )
    low, high = METHODS[method]
    if not bool(((orders > low) & (orders < high)).all()):
        raise ValueError(f"expected {low:g} < alpha < {high:g} for {method!r}, got {alpha}")
    times = grid(t_end, steps)
    slope = None if dy0 is None else initial_value("dy0", dy0, like=value)
    scheme = _scheme(method, orders.reshape(-1), t_end / steps, steps)
    values = march(
        scheme, checked_rate(f, value), _taylor(value, slope, orders, times), times, orders.ndim,
        solver=make_solver(solver, jacobian, tolerance, max_iterations, corrections, value.dtype),
        progress=progress, impl=impl,
    )  # fmt: skip
    return Solution(times.to(value.device), values)


def _scheme(method: str, alpha: Tensor, step: float, steps: int) -> Scheme:
    size = (step**alpha)[:, None]
    if method == "bdf2":
        needed = weights.exponents(alpha).shape[1] - 1
        if steps < needed:
            raise ValueError(f"expected steps >= {needed} for 'bdf2' and this alpha, got {steps}")
        w = weights.bdf2(alpha, steps + 1)
        start = weights.starting(alpha, w)
        w, start = size * w, size[..., None] * start
        return Scheme(w[None, :, 1:], w[:, 0], start)
    if method in ("grunwald-letnikov", "l1"):
        make = weights.l1 if method == "l1" else weights.grunwald_letnikov
        w = make(alpha, steps + 1)
        return Scheme(-(w / w[:, :1])[None, :, 1:], size[:, 0] / w[:, 0], deviations=True)
    kernel = PowerKernel(alpha, torch.exp(-torch.lgamma(alpha)))
    return product_rule(method, kernel, step, steps)


def _taylor(
    value: Tensor, slope: Tensor | None, alpha: Tensor, times: Tensor
) -> Callable[[int, int], Tensor]:
    """``y(0) + t y'(0)``, the second term where alpha > 1, at steps begin .. end-1."""
    if slope is None:
        return lambda begin, end: value.expand(end - begin, *value.shape)
    counts = (alpha > 1).reshape(alpha.shape + (1,) * (value.ndim - alpha.ndim)).to(slope)
    slope = slope * counts
    t = times.to(slope).reshape(-1, *(1,) * value.ndim)
    return lambda begin, end: value + t[begin:end] * slope
