"""Fills through torch.fft with contiguous time, which are plain torch, on any device: as a form of
their own, and of levels for which an implementation has no kernels.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from futurefill_kernels import Plan
from futurefill_kernels.implementations import (
    cuda,
    cuda_early,
    fft_fill,
    gpu_passes,
    reference,
    triton,
)
from futurefill_kernels.implementations.mixed import Mixed
from futurefill_kernels.state.layout import Layout
from futurefill_kernels.state.spectra import tiled_spectra
from futurefill_kernels.state.tensors import allocate


def pair(plan, channels, groups, batch=3, layers=2, part=fft_fill, **dtypes):
    """A stream with the fills of one part, kept spectra full of NaN, and one of the reference."""
    filters = [torch.randn(groups, plan.filter_length) / 9 for _ in range(layers)]
    fills = Mixed(cuda, cuda, (part,) * len(plan.levels))
    layout = Layout.padded(channels, groups, plan.slots)
    state = allocate(plan, layout, fills.make_spectra, filters, batch, None, **dtypes)
    dtypes.pop("spectra_dtype", None)
    layout = reference.make_layout(channels, groups, torch.float32, plan)
    other = allocate(plan, layout, reference.make_spectra, filters, batch, None, **dtypes)
    u = torch.randn(layers, batch, plan.length, channels)
    opened = torch.randn(*other.open_block.shape)
    for x in (state, other):
        x.ring[:, :, 0, : plan.length, :channels] = u
        x.open_block[..., :channels] = opened
    state.kept.fill_(float("nan"))
    return state, other


PLANS = [
    (Plan(64, (4, 8, 16, 32)), 5, 5),
    (Plan(100, (3, 6, 12), 70), 40, 8),  # radix 9 in the end, a sliding window
    (Plan(130, (4, 16, 64)), 34, 1),
    (Plan(37, (1, 5), 20), 66, 33),
]


@pytest.mark.parametrize(("plan", "channels", "groups"), PLANS)
@pytest.mark.parametrize("workspace", [1, 1 << 20])
def test_every_firing_is_that_of_the_reference(monkeypatch, plan, channels, groups, workspace):
    """Rows at their own positions, all of them or some with padding; parts of layers and channels,
    or several at once.
    """
    monkeypatch.setattr(gpu_passes, "WORKSPACE_BYTES", workspace)
    states = pair(plan, channels, groups)
    for level in plan.levels:
        for n in range(1, (plan.length - 1) // level.block + 1):
            if not level.products(n):
                continue
            for state in states:
                state.positions.fill_(n * level.block)
                state.positions[1] = level.block
            for rows in (None,) if n % 2 else (torch.tensor([2, -1, 1]), torch.tensor([-1, 0])):
                fft_fill.fill(states[0], level, rows)
                given = rows if rows is None else rows[rows >= 0]
                reference.fill(states[1], level, given)
                got, expected = states[0].ring[..., :channels], states[1].ring
                assert (got - expected).abs().max() < 3e-6 * expected.abs().max()
                assert not states[0].ring[..., channels:].any()


def test_a_row_that_does_not_fire_stays():
    states = pair(Plan(64, (8, 16)), 5, 5)
    level = states[0].plan.levels[0]
    states[0].positions.copy_(torch.tensor([8, 11, 0]))  # a block, inside one, none
    before = states[0].ring.clone()
    fft_fill.fill(states[0], level, None)
    assert torch.equal(states[0].ring[:, 1:], before[:, 1:])
    assert not torch.equal(states[0].ring[:, 0], before[:, 0])


def check_shares(part, states, level, blocks, channels):
    """All shares of a part's firing after so many blocks are the reference's firing."""
    for state in states:
        state.positions.fill_(blocks * level.block)
    for share in range(level.steps):
        part.fill_share(states[0], level, None, share, share + 1)
    reference.fill_share(states[1], level, None, 0, level.steps)
    got, expected = states[0].ring[..., :channels], states[1].ring
    assert (got - expected).abs().max() < 3e-6 * expected.abs().max()


def test_shares_of_a_level_with_slack_are_its_firing():
    """Channels by channels; the first outputs are late by as much as the plan says."""
    plan = Plan(100, (4, 8, 32), slack_from=8)
    states = pair(plan, 70, 70)
    for level in plan.levels[1:]:
        for n in range(1, (plan.length - 1 - level.late) // level.block + 1):
            if not level.products(n):
                continue
            check_shares(fft_fill, states, level, n, 70)


@pytest.mark.parametrize("ring_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("plan", [Plan(60, (4, 8, 24)), Plan(23, (5, 10), 14)])
def test_sums_of_a_state_of_16_bits_are_rounded_once(plan, ring_dtype):
    """Those of the open block not at all."""
    states = pair(plan, 40, 40, ring_dtype=ring_dtype)
    for level in plan.levels:
        for state in states:
            state.positions.fill_(level.block)
        fft_fill.fill(states[0], level, torch.tensor([2, -1, 0]))
        reference.fill(states[1], level, torch.tensor([2, 0]))
        got, expected = (state.ring[..., :40] for state in states)
        # a sum that is next to the middle of two numbers
        torch.testing.assert_close(got, expected, rtol=torch.finfo(ring_dtype).eps, atol=1e-6)
        assert (got != expected).float().mean() < 1e-3
        got, expected = (state.open_block[..., :40] for state in states)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        states[0].ring[..., :40] = states[1].ring


def test_spectra_of_bfloat16_are_of_rounded_filters():
    states = pair(Plan(64, (8, 32)), 5, 5, spectra_dtype=torch.bfloat16)
    for level in states[0].plan.levels:
        for state in states:
            state.positions.fill_(level.block)
        fft_fill.fill(states[0], level, None)
        reference.fill(states[1], level, None)
    got, expected = states[0].ring[..., :5], states[1].ring
    assert 1e-4 < (got - expected).norm() / expected.norm() < 1e-2


def test_it_does_not_compute_in_float64():
    (reason,) = fft_fill.cannot_run(torch.device("cuda"), torch.float64, None)
    assert reason == "computes in float32, not in float64"
    assert not fft_fill.cannot_run(torch.device("cuda"), torch.float32, None)


def test_other_levels_of_a_stream_keep_their_order():
    plan, h = Plan(3 * 64, (16, 64)), torch.randn(24, 3 * 64)
    layout = Layout.padded(24, 24, plan.length)
    mixed = Mixed(cuda, cuda, (triton, fft_fill))
    found = mixed.make_spectra(h, plan, layout, torch.float32)
    plain = triton.make_spectra(h, plan, layout, torch.float32)
    last = plan.levels[-1].spectra_offset
    assert torch.equal(found[:, :last], plain[:, :last])
    assert not torch.equal(found[:, last:], plain[:, last:])


#: part -> whose limit it has
PARTS = {"cuda": cuda, "cuda_early": cuda, "triton": triton}


@pytest.fixture(params=[*PARTS, "index"])
def part(request, monkeypatch):
    """What has no kernels for 16 points and more of 40 channels, padded to 64."""
    limits = {"index_limit": 16 * 64} if request.param == "index" else {"largest_passes": 8}
    limited = PARTS.get(request.param, triton)
    record = dataclasses.replace(limited.capabilities, **limits)
    monkeypatch.setattr(limited, "capabilities", record)
    return cuda_early if request.param == "cuda_early" else limited


def test_a_level_without_kernels_is_that_of_the_reference(part):
    """Rows listed in any order, padding, and rows whose block is not finished yet."""
    plan = Plan(24 * 4, (6, 24), 80)
    states = pair(plan, 40, 8, batch=4, part=part)
    state, level = states[0], plan.levels[1]
    firings = (
        ([24, 24, 24, 24], [3, -1, 0, 1, 2]),
        ([48, 25, 48, 72], [2, 0, -1]),
        ([60, 48, 50, 48], [3, 1, 0, 2, -1]),
        ([72, 72, 72, 72], None),
    )
    for positions, rows in firings:
        due = [b for b in rows or range(4) if b >= 0 and positions[b] % 24 == 0]
        kept, ring = state.kept.clone(), state.ring.clone()
        for each in states:
            each.positions.copy_(torch.tensor(positions))
        part.fill(state, level, None if rows is None else torch.tensor(rows))
        reference.fill(states[1], level, torch.tensor(due))
        others = [b for b in range(4) if b not in due]
        assert torch.equal(state.kept[:, others].nan_to_num(), kept[:, others].nan_to_num())
        assert torch.equal(state.ring[:, others], ring[:, others])
        got, expected = state.ring[..., :40], states[1].ring
        assert (got - expected).abs().max() < 3e-6 * expected.abs().max()


def test_shares_of_a_level_without_kernels(part):
    plan = Plan(200, (4, 16, 48), slack_from=16)
    states = pair(plan, 40, 40, part=part)
    for level in plan.levels[1:]:
        for n in (1, 2):
            check_shares(part, states, level, n, 40)


@pytest.mark.parametrize("part", ["cuda", "cuda_early", "triton"], indirect=True)
def test_a_level_without_kernels_makes_its_spectra(part):
    states = pair(Plan(100, (3, 12), 70, made_from=12), 40, 8, part=part)
    level = states[0].plan.levels[1]
    for n in range(1, 8):
        for state in states:
            state.positions.fill_(n * level.block)
        part.fill(states[0], level, None)
        reference.fill(states[1], level, None)
        got, expected = states[0].ring[..., :40], states[1].ring
        assert (got - expected).abs().max() < 3e-6 * expected.abs().max()


def test_spectra_of_levels_with_kernels_keep_their_order(part):
    plan, h = Plan(200, (8, 32), 150), torch.randn(40, 200)
    layout = Layout.padded(40, 40, plan.length)
    found = Mixed(cuda, cuda, (part, part)).make_spectra(h, plan, layout, torch.float32)
    expected = tiled_spectra(h, plan, layout, torch.float32)
    fft_fill.arrange_level(expected, plan.levels[1], h[:, :150], layout)
    assert torch.equal(found, expected)
    if part is not cuda_early:
        assert torch.equal(part.make_spectra(h, plan, layout, torch.float32), expected)
