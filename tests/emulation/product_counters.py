"""Products of a fill through torch.fft: one launch after those before it, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from futurefill_kernels.level import Level
from futurefill_kernels.plan import Plan
from futurefill_kernels.state.spectra import tree_order
from futurefill_kernels.state.tensors import StreamState
from tests.emulation.cases import ProductCase
from tests.emulation.counters import Counters, counters

#: run(state, level, values, rows) -> statistics of the launch that replaces values by their sums
Run = Callable[[StreamState, Level, torch.Tensor, torch.Tensor], Any]


def plan_of(case: ProductCase) -> Plan:
    """Plan of one level whose groups are the case's."""
    return Plan(case.block * case.radix, (case.block,))


def count_products(
    case: ProductCase, state: StreamState, run: Run, registers: Callable[[Any], int | None]
) -> Counters:
    """Counters of firing ``case.index`` on random spectra. state: of plan_of(case)."""
    level, generator = state.plan.levels[0], torch.Generator().manual_seed(2)
    order, rows = tree_order(case.transform), torch.arange(case.batch)
    offset = state.plan.levels[0].spectra_offset
    # (K, 1, n, D) in tree order
    filters = state.spectra[0, 0, offset : offset + level.n_spectra * case.transform]
    h = filters.view(level.n_spectra, 1, case.transform, 2, -1)[..., : case.channels]
    h = torch.complex(h[:, :, :, 0].double(), h[:, :, :, 1].double())
    blocks: list[torch.Tensor] = []
    for i in range(1, case.index + 1):
        shape = (case.batch, case.transform, case.channels, 2)
        values = torch.randn(shape, generator=generator)
        blocks.append(torch.view_as_complex(values.double())[:, order])
        state.positions.fill_(i * case.block)
        stats = run(state, level, values, rows)
    expected = sum(x * h[k] for k, x in enumerate(reversed(blocks[-level.n_spectra :])))
    assert isinstance(expected, torch.Tensor)
    entries = case.batch * case.transform * case.channels
    return counters(
        stats, values[:, order].double(), torch.view_as_real(expected), case.compulsory,
        case.nominal_flops, stats.total_thread_insts / entries, registers(stats),
    )  # fmt: skip
