"""The march over the grid that all discretisations share: one history sum per step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .implicit import NoConvergence, Rate, Solver, solve_coupled
from .memory import Memory

#: Steps whose known parts are prepared together, and between two calls of ``progress``.
BLOCK = 256

Progress = Callable[[int, int], object]


class Scheme(NamedTuple):
    """A discretisation: ``y_n = g_n + sum_{j=1..n} w_j u_{n-j} + w_0 f_n + sum_i s_{n,i} f_i``.

    taps: (K, G, N), w_1 .. w_N; the last of the K rows is that of the sum, the one before it, if
        any, predicts y_n for f_n.
    newest: (G,) w_0, or None for an explicit method.
    start: (G, N + 1, S), the s_{n,i} of f_0 .. f_{S-1}, or None. S - 1 steps are solved together.
    deviations: whether u is ``y - g``, which begins with 0, instead of f.
    """

    taps: Tensor
    newest: Tensor | None = None
    start: Tensor | None = None
    deviations: bool = False


def march(
    scheme: Scheme,
    rate: Rate,
    offset: Callable[[int, int], Tensor],
    times: Tensor,
    rows: int,
    *,
    solver: Solver,
    progress: Progress | None,
    impl: str,
) -> Tensor:
    """Values (N + 1, *shape).

    rate: f, checked. offset(begin, end): g at those steps, (end - begin, *shape). rows: how many
    leading dimensions of a value have a filter row for each entry.
    """
    first = offset(0, 1)
    value, steps = first[0], len(times) - 1
    lead = value.shape[:rows] + (1,) * (value.ndim - rows)
    newest = None if scheme.newest is None else scheme.newest.to(value).reshape(lead)
    start = None if scheme.start is None else scheme.start.to(value)
    memory = Memory(scheme.taps, value.shape, impl=impl, dtype=value.dtype, device=value.device)
    values = value.new_zeros(steps + 1, *value.shape)
    values[0] = value
    at = times.tolist()
    begun = [rate(at[0], value).clone()]
    given, predicts = memory.input, len(scheme.taps) > 1
    taken = 1
    if start is not None and newest is not None:
        taken = min(start.shape[2], steps + 1)
        weights = _starting_block(scheme, start, newest, taken, lead)
        _solve_block(weights, rate, offset(0, taken), values[:taken], at, begun, solver)
        for u in begun[:-1]:
            given.copy_(u)
            memory.advance()
    given.copy_(torch.zeros_like(value) if scheme.deviations else begun[-1])
    prediction, sums, advance = memory.sums[0], memory.sums[-1], memory.advance
    corrections = range(solver.corrections)
    for begin in range(taken, steps + 1, BLOCK):
        end = min(begin + BLOCK, steps + 1)
        block, bases = values[begin:end], offset(begin, end)
        block.copy_(bases)
        if start is not None:
            for i, f_i in enumerate(begun):
                block += _column(start[:, begin:end, i], lead) * f_i
        previous = values[begin - 1]
        for n, y, base in zip(range(begin, end), block.unbind(0), bases.unbind(0), strict=True):
            advance()
            y.add_(sums)
            if newest is None:
                found = rate(at[n], y)
            elif predicts:
                found = rate(at[n], base + prediction)
                known = y.clone() if len(corrections) > 1 else y
                for _ in corrections:
                    torch.addcmul(known, found, newest, out=y)
                    found = rate(at[n], y)
            else:
                try:
                    solved, found = solver.solve(rate, at[n], y, newest, previous)
                except NoConvergence as error:
                    raise RuntimeError(f"implicit step {n} (t = {at[n]:.6g}) {error}") from None
                y.copy_(solved)
            if scheme.deviations:
                torch.sub(y, base, out=given[0])
            else:
                given.copy_(found)
            previous = y
        if progress is not None:
            progress(end - 1, steps)
    return values


def _column(weights: Tensor, lead: tuple[int, ...]) -> Tensor:
    """(G, n) -> (n, *lead)."""
    return weights.T.reshape(-1, *(lead if weights.shape[0] > 1 else (1,) * len(lead)))


def _starting_block(
    scheme: Scheme, start: Tensor, newest: Tensor, taken: int, lead: tuple[int, ...]
) -> Tensor:
    """(taken, taken, *lead): what f_i adds to y_n in the first steps."""
    weights = start[:, :taken, :taken].movedim(0, -1).reshape(taken, taken, *lead).clone()
    taps = scheme.taps[-1].to(start)
    for n in range(1, taken):
        weights[n, n] += newest
        for i in range(n):
            weights[n, i] += taps[:, n - i - 1].reshape(lead)
    return weights


def _solve_block(
    weights: Tensor,
    rate: Rate,
    offsets: Tensor,
    values: Tensor,
    at: list[float],
    begun: list[Tensor],
    solver: Solver,
) -> None:
    """The first steps, which depend on each other: values[1:] and their f, appended to begun."""
    known = offsets[1:] + weights[1:, 0] * begun[0]
    values[1:] = values[0]
    if not len(known):
        return

    def rates(y: Tensor) -> Tensor:
        return torch.stack([rate(t, y_n) for t, y_n in zip(at[1:], y.unbind(0), strict=False)])

    def jacobians(y: Tensor) -> Tensor:
        nodes = zip(at[1:], y.unbind(0), strict=False)
        return torch.stack([solver.jacobian_of(rate, t, y_n) for t, y_n in nodes])

    try:
        solved, found = solve_coupled(solver, rates, jacobians, known, weights[1:, 1:], values[1:])
    except NoConvergence as error:
        raise RuntimeError(f"implicit steps 1 .. {len(known)}, solved together, {error}") from None
    values[1:] = solved
    begun += found.unbind(0)
