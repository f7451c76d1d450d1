"""Counts of the two kernels of a token, of any implementation, checked against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from futurefill_kernels.plan import Plan
from futurefill_kernels.state.tensors import StreamState
from tests.emulation.cases import ApplyCase, HistoryCase
from tests.emulation.counters import Counters, counters
from tests.oracles import history

#: launch(stats): warps that it had
Warps = Callable[[Any], int]


def plan_of(case: HistoryCase) -> Plan:
    """A plan whose short-range block is the case's."""
    return Plan(4 * case.block, (case.block,))


def count_history(
    case: HistoryCase,
    state: StreamState,
    h: Tensor,
    run: Callable[[StreamState], Any],
    warps: Warps,
    registers: Callable[[Any], int | None],
) -> tuple[Counters, Any]:
    """One launch at ``case.position`` in every row. h: (D, L), the filters of all layers."""
    state.positions.fill_(case.position)
    stats = run(state)
    assert (state.token_at == case.position).all()
    pairs = [(layer, row) for layer in range(case.layers) for row in range(case.batch)]
    expected = torch.stack([history(state, h, *pair) for pair in pairs])
    got = state.history.flatten(0, 1)[:, : case.channels]
    return counters(
        stats, got, expected, case.compulsory, case.nominal_flops,
        stats.total_warp_insts / warps(stats), registers(stats),
    ), stats  # fmt: skip


def count_apply(
    case: ApplyCase,
    state: StreamState,
    h: Tensor,
    run: Callable[[StreamState, Tensor, Tensor], Any],
    warps: Warps,
    registers: Callable[[Any], int | None],
) -> Counters:
    """One token of the last layer, or of one before it. run(state, u, y): ungated, without skip."""
    generator = torch.Generator().manual_seed(1)
    state.history.normal_(generator=generator)
    state.token_at.fill_(5)
    state.positions.fill_(5)
    u = torch.randn(case.batch, case.channels, generator=generator).to(case.dtype)
    y = torch.full_like(u, float("nan"))
    expected = state.history[0, :, : case.channels].double() + h[:, 0].double() * u.double()
    stats = run(state, u, y)
    assert state.positions.tolist() == [5 + case.last] * case.batch
    return counters(
        stats, y, expected, case.compulsory, case.nominal_flops,
        stats.total_warp_insts / warps(stats), registers(stats),
    )  # fmt: skip
