"""Fills on a GPU of levels that make their filter spectra, which are plain torch, on any device."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from futurefill_kernels import Plan
from futurefill_kernels.implementations import gpu_fill_by_fft, reference
from futurefill_kernels.implementations.gpu_made_spectra import made_fill, made_spectra
from futurefill_kernels.state.layout import Layout
from futurefill_kernels.state.spectra import block_spectra, tree_order
from futurefill_kernels.state.tensors import allocate


@pytest.mark.parametrize("block", [1, 5, 8, 12])
def test_spectra_are_those_that_other_levels_hold(block):
    h = torch.randn(3, 4 * block + 1)
    level = Plan(6 * block, (block,), made_from=block).levels[0]
    held = block_spectra(h, level)
    for k in range(1, level.n_spectra + 1):
        made = made_spectra(h, level, k).mT
        order = tree_order(level.transform)
        torch.testing.assert_close(made[:, order], held[:, k - 1].to(made.dtype))


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
def test_every_firing_is_that_of_the_reference(monkeypatch, plan, channels, groups, filters_dtype):
    """Rows at their own positions, some of the channels at a time; two filters in a workspace."""
    monkeypatch.setattr(gpu_fill_by_fft, "_WORKSPACE_BYTES", 1)
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
            for rows in (None,) if n % 2 else (torch.tensor([2, 1]), torch.tensor([0])):
                made_fill(states[0], level, rows, 0, 32)
                made_fill(states[0], level, rows, 32, states[0].layout.lanes)
                reference.fill(states[1], level, rows)
                pending = states[0].ring[..., :channels]
                expected = states[1].ring
                assert (pending - expected).abs().max() < 3e-6 * expected.abs().max()


@pytest.mark.parametrize("ring_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("plan", [Plan(60, (4, 8, 24)), Plan(23, (5, 10), 14)])
def test_sums_of_a_state_of_16_bits_are_rounded_once(monkeypatch, plan, ring_dtype):
    """Those of the open block not at all; with padding, and without an open block."""
    monkeypatch.setattr(gpu_fill_by_fft, "_WORKSPACE_BYTES", 1)
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
                run = made_fill if state is states[0] else reference.fill
                run(given, level, rows, *((0, 40) if state is states[0] else ()))
                assert rows is None or torch.equal(state.ring[:, 1], before[:, 1])
            got, expected = (state.ring[..., :40] for state in states)
            # a sum that is next to the middle of two numbers
            torch.testing.assert_close(got, expected, rtol=torch.finfo(ring_dtype).eps, atol=1e-6)
            assert (got != expected).float().mean() < 1e-3
            got, expected = (state.open_block[..., :40] for state in states)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
            states[0].ring[..., :40] = states[1].ring
