"""Fills on a GPU of levels that make their filter spectra: plain torch around fills of one block,
for which torch stands in, on any device.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from futurefill_kernels import Plan
from futurefill_kernels.implementations import gpu_passes, reference
from futurefill_kernels.implementations.gpu_made_spectra import made_fill, made_spectra
from futurefill_kernels.state.layout import Layout
from futurefill_kernels.state.spectra import (
    block_spectra,
    inverse_twisted_transform,
    twisted_transform,
)
from futurefill_kernels.state.tensors import allocate


def plain_fill(state, level, rows):
    """Of one block, from spectra as they are made."""
    n, block = level.transform, level.block
    assert (level.n_spectra, state.length, state.channels_per_filter) == (1, 2 * block, 1)
    for row in rows[rows >= 0].tolist():
        here = state.ring[0, row, 0]
        u = torch.nn.functional.pad(here[:block].double().T, (0, n - block))
        h = torch.complex(state.spectra[0, 0, :, 0], state.spectra[0, 0, :, 1]).T * n
        values = twisted_transform(u.to(torch.complex128)) * h
        here[block:] += inverse_twisted_transform(values).imag[:, :block].T.float()


PASSES = SimpleNamespace(arrange_level=lambda *_: None, fill=plain_fill)


@pytest.mark.parametrize("block", [1, 5, 8, 12])
def test_spectra_are_those_that_other_levels_hold(block):
    h = torch.randn(3, 4 * block + 1)
    level = Plan(6 * block, (block,), made_from=block).levels[0]
    held = block_spectra(h, level)
    for k in range(1, level.n_spectra + 1):
        re, im = made_spectra(h, level, k).unbind(1)
        torch.testing.assert_close(torch.complex(re, im).T, held[:, k - 1].to(torch.complex64))


@pytest.mark.parametrize(
    ("plan", "channels", "groups"),
    [
        (Plan(64, (4, 8, 16, 32), made_from=8), 5, 5),
        (Plan(100, (3, 6, 12), 70, made_from=3), 40, 8),  # radix 9 in the end, a sliding window
        (Plan(130, (4, 16, 64), made_from=16), 34, 1),
        (Plan(37, (5,), 20, made_from=5), 33, 33),
    ],
)
@pytest.mark.parametrize("filters_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("passes", "workspace"), [(PASSES, 1), (None, 1), (None, 1 << 20)])
def test_every_firing_is_that_of_the_reference(
    monkeypatch, plan, channels, groups, filters_dtype, passes, workspace
):
    """Rows at their own positions, some of them with padding; some of the channels at a time."""
    monkeypatch.setattr(gpu_passes, "WORKSPACE_BYTES", workspace)
    filters = [torch.randn(groups, plan.filter_length) / 9 for _ in range(2)]
    states = [
        allocate(
            plan, layout, reference.make_spectra, filters, 3, None, filters_dtype=filters_dtype
        )
        for layout in (
            Layout.padded(channels, groups, plan.length),
            reference.make_layout(channels, groups, torch.float32, plan),
        )
    ]
    states[0].kept.fill_(float("nan"))  # nothing is kept
    u = torch.randn(2, 3, plan.length, channels)
    for state in states:
        state.ring[:, :, 0, : plan.length, :channels] = u
    for level in plan.levels:
        for n in range(1, plan.length // level.block + 1):
            if not (level.made and level.products(n)) or n * level.block >= plan.length:
                continue
            for state in states:
                state.positions.fill_(n * level.block)
                state.positions[1] = level.block
            for rows in (None,) if n % 2 else (torch.tensor([2, -1, 1]), torch.tensor([0])):
                made_fill(states[0], level, rows, passes)
                reference.fill(states[1], level, rows if rows is None else rows[rows >= 0])
                pending = states[0].ring[..., :channels]
                expected = states[1].ring
                assert (pending - expected).abs().max() < 3e-6 * expected.abs().max()


@pytest.mark.parametrize("ring_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("plan", [Plan(60, (4, 8, 24)), Plan(23, (5, 10), 14)])
@pytest.mark.parametrize("passes", [PASSES, None])
def test_sums_of_a_state_of_16_bits_are_rounded_once(monkeypatch, plan, ring_dtype, passes):
    """Those of the open block not at all; with padding, and without an open block."""
    monkeypatch.setattr(gpu_passes, "WORKSPACE_BYTES", 1)
    plan = dataclasses.replace(plan, made_from=plan.base)
    filters = [torch.randn(40, plan.filter_length) / 9] * 2
    layouts = (
        Layout.padded(40, 40, plan.length),
        reference.make_layout(40, 40, torch.float32, plan),
    )
    states = [
        allocate(plan, layout, reference.make_spectra, filters, 3, None, ring_dtype=ring_dtype)
        for layout in layouts
    ]
    u, opened = torch.randn(2, 3, plan.length, 40), torch.randn(2, 3, plan.base, 40)
    for state in states:
        state.ring[:, :, 0, :, :40] = u
        state.open_block[:, :, 0, :, :40] = opened
    for level in plan.levels:
        newest = (plan.length - 1) // level.block
        boundary = level.block * max(n for n in range(newest + 1) if level.products(n) == 1)
        for rows in (None, torch.tensor([2, -1, 0])):
            for state in states:
                state.positions.fill_(boundary)
                state.positions[2] = level.block
                given = state if rows is None else state.without_open_block()
                before = state.ring.clone()
                if state is states[0]:
                    made_fill(given, level, rows, passes)
                else:
                    reference.fill(given, level, rows)
                assert rows is None or torch.equal(state.ring[:, 1], before[:, 1])
            got, expected = (state.ring[..., :40] for state in states)
            # a sum that is next to the middle of two numbers
            torch.testing.assert_close(got, expected, rtol=torch.finfo(ring_dtype).eps, atol=1e-6)
            assert (got != expected).float().mean() < 1e-3
            got, expected = (state.open_block[..., :40] for state in states)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
            states[0].ring[..., :40] = states[1].ring
