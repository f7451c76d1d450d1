"""The implicit step ``y = known + c f(t, y)``: a fixed point, or Newton's method.

The history is in ``known``, so iterations cost evaluations of f and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Rate = Callable[[float, Tensor], Tensor]


@dataclass(frozen=True)
class Solver:
    """How an implicit step is solved.

    newton: Newton's method instead of a fixed point, which contracts where ``c |df/dy| < 1``.
    jacobian: (t, y) -> df/dy, (*shape, d) where the last dimension of y (*shape), of d entries,
        is coupled, or (*shape) where every entry depends on itself alone. None: by torch.func, d
        forward derivatives at once.
    tolerance: of the last change, relative to ``max(1, |y|)``.
    corrections: after a prediction, instead of a solution.
    """

    newton: bool = False
    jacobian: Rate | None = None
    tolerance: float = 1e-12
    max_iterations: int = 100
    corrections: int = 1

    def solve(
        self, rate: Rate, t: float, known: Tensor, c: Tensor, guess: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(y, f(t, y)), both (*shape); c broadcasts. Raises NoConvergence.

        What is NaN when the step begins, or at its first evaluation, does not keep the other
        entries from converging.
        """
        y = guess
        for _ in range(self.max_iterations):
            new, found = self._iterate(rate, t, known, c, y)
            change, y = new - y, new
            if not bool((change.abs() > self.tolerance * y.abs().clamp(min=1)).any()):
                break
        else:
            raise NoConvergence(self, change, change.abs() > self.tolerance * y.abs().clamp(min=1))
        if not math.isfinite(float(y.sum())):
            infinite = self._overflow(rate, t, known, c, guess)
            if bool(infinite.any()):
                raise NoConvergence(self, y, infinite)
        return y, rate(t, y) if self.newton else found

    def _iterate(
        self, rate: Rate, t: float, known: Tensor, c: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next iterate, and f of the last one."""
        found = rate(t, y)
        if not self.newton:
            return torch.addcmul(known, found, c), found
        return y + self._newton(rate, t, y, torch.addcmul(known - y, found, c), c), found

    def _overflow(self, rate: Rate, t: float, known: Tensor, c: Tensor, guess: Tensor) -> Tensor:
        """Entries that became infinite on the way, though the first iterate was finite."""
        y = self._iterate(rate, t, known, c, guess)[0]
        lost, infinite = ~y.isfinite(), torch.zeros_like(y, dtype=torch.bool)
        for _ in range(self.max_iterations):
            y = self._iterate(rate, t, known, c, y)[0]
            infinite |= y.isinf() & ~lost
        return infinite

    def _newton(self, rate: Rate, t: float, y: Tensor, residual: Tensor, c: Tensor) -> Tensor:
        jacobian = self.jacobian(t, y) if self.jacobian else forward_jacobian(rate, t, y)
        if jacobian.shape == y.shape:
            return residual / (1 - c * jacobian)
        matrix = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        matrix = matrix - c.expand(y.shape)[..., None] * checked_jacobian(jacobian, y)
        return torch.linalg.solve_ex(matrix, residual)[0]

    def jacobian_of(self, rate: Rate, t: float, y: Tensor) -> Tensor:
        """df/dy (*shape, d), also where the given one is diagonal; (1, 1) for a number."""
        jacobian = self.jacobian(t, y) if self.jacobian else forward_jacobian(rate, t, y)
        if y.ndim == 0:
            return jacobian.reshape(1, 1)
        return jacobian.diag_embed() if jacobian.shape == y.shape else checked_jacobian(jacobian, y)


def solve_coupled(
    solver: Solver,
    rates: Callable[[Tensor], Tensor],
    jacobians: Callable[[Tensor], Tensor],
    known: Tensor,
    weights: Tensor,
    guess: Tensor,
) -> tuple[Tensor, Tensor]:
    """``y_n = known_n + sum_i weights_{n,i} f(y_i)`` of m steps at once.

    rates: (m, *shape) -> (m, *shape). jacobians: -> (m, *shape, d). known, guess: (m, *shape).
    weights: (m, m, ...), broadcast to the shape. Returns y and its f. Raises NoConvergence.
    """
    y, steps, infinite = guess, len(known), torch.zeros_like(known, dtype=torch.bool)
    for _ in range(solver.max_iterations):
        found = rates(y)
        change = known + (weights * found).sum(1) - y
        if solver.newton:
            wide = y.reshape(*y.shape, 1) if y.ndim == 1 else y
            d = wide.shape[-1]
            c = weights.expand(steps, *y.shape).reshape(steps, *wide.shape)[..., None]
            coupled = (c * jacobians(y).reshape(*wide.shape, d)).movedim((0, 1), (-4, -2))
            matrix = torch.eye(steps * d, dtype=y.dtype, device=y.device)
            matrix = matrix - coupled.flatten(-4, -3).flatten(-2, -1)
            residual = change.reshape(wide.shape).movedim(0, -2).flatten(-2, -1)
            change = torch.linalg.solve_ex(matrix, residual)[0]
            change = change.unflatten(-1, (steps, d)).movedim(-2, 0).reshape(y.shape)
        y = y + change
        infinite |= y.isinf() & known.isfinite()
        remaining = infinite | (change.abs() > solver.tolerance * y.abs().clamp(min=1))
        if not bool(remaining.any()):
            return y, rates(y)
    raise NoConvergence(solver, change, remaining)


def checked_jacobian(jacobian: Tensor, y: Tensor) -> Tensor:
    """The jacobian, if it is (*shape, d); ValueError otherwise."""
    if y.ndim and jacobian.shape == (*y.shape, *y.shape[-1:]):
        return jacobian
    expected = f"{(*y.shape, *y.shape[-1:])} or {tuple(y.shape)}" if y.ndim else "()"
    raise ValueError(f"expected jacobian(t, y) {expected}, got {tuple(jacobian.shape)}")


class NoConvergence(RuntimeError):
    """An implicit step that did not converge."""

    def __init__(self, solver: Solver, residual: Tensor, remaining: Tensor) -> None:
        size = float(residual[remaining].abs().nan_to_num(math.inf).max())
        super().__init__(
            f"did not converge in {solver.max_iterations} iterations: residual {size:.3g}, "
            f"{int(remaining.sum())} of {remaining.numel()} entries open; take smaller steps, "
            "solver='newton' or more max_iterations"
        )


def forward_jacobian(rate: Rate, t: float, y: Tensor) -> Tensor:
    """df/dy by forward derivatives along the last dimension: (*shape, d), or () for a number."""
    if y.ndim == 0:
        return torch.func.jvp(lambda x: rate(t, x), (y,), (torch.ones_like(y),))[1]
    basis = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)

    def column(direction: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: rate(t, x), (y,), (direction.expand(y.shape).clone(),))[1]

    return torch.func.vmap(column, out_dims=-1)(basis)
