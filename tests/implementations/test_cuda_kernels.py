"""CUDA steps and streams in the emulator, against the float64 reference, and planted faults."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.implementations import reference as plain
from futurefill_kernels.plan import Plan
from tests.emulation import emulator
from tests.emulation.cuda_rig import make_state, run_apply, run_fill, run_history
from tests.fast import combinations
from tests.implementations.cuda_pairs import ARCHS, make_pair, needs_emulator
from tests.oracles import history, poison_history, relative_error

pytestmark = needs_emulator


@pytest.mark.parametrize(
    ("sizes", "arch"),
    combinations(
        [
            (1, 1, 1, 1, 1),
            (7, 7, 3, 2, 5),
            (64, 2, 1, 3, 16),
            (100, 100, 8, 1, 64),
            (48, 16, 2, 2, 150),
            (40, 40, 9, 2, 100),
            (1000, 1000, 6, 8, 16),
            (1024, 256, 9, 6, 24),
        ],
        ARCHS,
        fast=[
            ((7, 7, 3, 2, 5), "sm_80"),
            ((48, 16, 2, 2, 150), "sm_80"),
            ((1000, 1000, 6, 8, 16), "sm_80"),
            ((1024, 256, 9, 6, 24), "sm_80"),
        ],
    ),
    ids=str,
)  # fmt: skip
def test_history(sizes, arch):
    """Rows at positions of their own, also at a block's start and at the end of the stream."""
    channels, groups, batch, layers, base = sizes
    torch.manual_seed(channels + base)
    plan = Plan(3 * base + 2, (base,))
    filters = [torch.randn(groups, plan.length) for _ in range(layers)]
    state = make_state(filters, plan, batch, channels)
    state.ring[..., :channels].normal_()
    state.positions.copy_(torch.arange(batch) * 7 % plan.length)
    state.positions[-1] = 2 * base - 1
    poison_history(state)
    ring, positions = state.ring.clone(), state.positions.clone()
    run_history(state, arch=arch)
    assert torch.equal(state.ring.nan_to_num(9.0), ring.nan_to_num(9.0))
    assert torch.equal(state.positions, positions)
    assert torch.equal(state.token_at, positions.expand(layers, batch))
    assert torch.equal(state.undo[:, :, 0, 0], ring[:, range(batch), 0, positions])
    expected = [
        torch.stack([history(state, h, layer, b) for b in range(batch)])
        for layer, h in enumerate(filters)
    ]
    assert relative_error(state.history[..., :channels], torch.stack(expected)) < 2e-7
    assert not state.history[..., channels:].any()


@pytest.mark.parametrize(
    ("batch", "layers"), combinations([(4, 2), (9, 100)], fast=[(4, 2), (9, 100)])
)
def test_history_of_chosen_rows(batch, layers):
    """Rows that are not named stay, and of a full one all but its position."""
    plan = Plan(40, (16,))
    h = torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    state = make_state([h] * layers, plan, batch)
    state.ring.normal_()
    state.positions.copy_(torch.arange(batch) * 9 % 40)
    state.positions[1] = 40
    poison_history(state)
    rows = torch.tensor([2, -1, *range(4, batch), 0, batch, 1])
    run_history(state, rows)
    named = {*rows.tolist()} - {-1, batch}
    for b in range(batch):
        expected = state.positions[b] if b in named else -7
        assert (state.token_at[:, b] == expected).all()
        if b in named - {1}:
            exact = torch.stack([history(state, h, layer, b) for layer in range(layers)])
            assert relative_error(state.history[:, b], exact) < 2e-7
            assert torch.equal(state.undo[:, b, 0, 0], state.ring[:, b, 0, state.positions[b]])
        else:
            assert torch.isnan(state.history[:, b]).all()
            assert torch.isnan(state.undo[:, b]).all()


@pytest.mark.parametrize(
    ("sizes", "dtype", "arch"),
    combinations(
        [(1, 1, 1), (7, 7, 3), (40, 10, 2), (1000, 1000, 3), (1030, 515, 1)],
        [torch.float32, torch.bfloat16, torch.float16],
        ARCHS,
        fast=[
            ((7, 7, 3), torch.float32, "sm_80"),
            ((40, 10, 2), torch.bfloat16, "sm_80"),
            ((1000, 1000, 3), torch.float32, "sm_80"),
            ((1030, 515, 1), torch.float16, "sm_80"),
        ],
    ),
    ids=str,
)
def test_step(sizes, dtype, arch):
    """A token of two layers, the second with gates that are parts of a wider tensor."""
    channels, groups, batch = sizes
    plan = Plan(17, (5,))
    state, reference = make_pair(plan, channels, groups=groups, batch=batch, layers=2, skip=True)
    positions = torch.arange(batch) * 7 % plan.length
    state.positions.copy_(positions)
    reference.positions.copy_(positions)
    wide = torch.randn(batch, 3 * channels).to(dtype)
    u, pre, post = wide.chunk(3, 1)
    run_history(state, arch=arch)
    for layer, gates in ((0, (None, None)), (1, (pre, post))):
        y = torch.full((batch, channels), float("nan"), dtype=dtype)
        exact = torch.empty(batch, channels, dtype=torch.float64)
        advance = layer == 1
        run_apply(state, u, *gates, y, None, layer, advance, arch=arch)
        gates64 = [None if g is None else g.double() for g in gates]
        plain.step(reference, u.double(), *gates64, exact, None, layer, advance)
        limit = {torch.float32: 2e-7, torch.float16: 6e-4, torch.bfloat16: 5e-3}[dtype]
        assert relative_error(y, exact) < limit
        assert relative_error(state.ring[..., :channels], reference.ring) < 1e-7
        assert torch.equal(state.positions, positions + advance)
    assert not state.ring[..., channels:].any()


def test_step_of_chosen_rows():
    """Padding rows read zero, rows that are not named stay, a full row is refused with NaN."""
    batch, channels = 7, 24
    plan = Plan(40, (16,))
    state, reference = make_pair(plan, channels, batch=batch)
    state.positions.copy_(torch.arange(batch) * 5 % 40)
    state.positions[1] = 40
    reference.positions.copy_(state.positions)
    rows = torch.tensor([2, -1, 0, 1, *range(5, batch)])
    u = torch.randn(len(rows), channels)
    y = torch.full_like(u, 7.0)
    run_history(state, rows)
    run_apply(state, u, None, None, y, rows, 0, True)
    assert torch.isnan(y[3]).all()
    assert not y[1].any()
    fine = torch.tensor([0, 2, *range(4, len(rows))])
    exact = torch.empty(len(fine), channels, dtype=torch.float64)
    plain.step(reference, u[fine].double(), None, None, exact, rows[fine], 0, True)
    assert relative_error(y[fine], exact) < 2e-7
    assert torch.equal(state.positions, reference.positions)
    assert relative_error(state.ring[..., :channels], reference.ring) < 1e-7


@pytest.mark.slow
def test_a_stream_equals_the_reference():
    """Steps and fills of a plan with three levels, token by token."""
    plan = Plan(150, (4, 16, 64))
    state, reference = make_pair(plan, 12, batch=2)
    state.ring.zero_()
    reference.ring.zero_()
    got, expected = [], []
    for t in range(plan.length):
        u = torch.randn(2, 12)
        y, exact = torch.empty(2, 12), torch.empty(2, 12, dtype=torch.float64)
        run_history(state, checks=False)
        run_apply(state, u, None, None, y, None, 0, True, checks=False)
        plain.step(reference, u.double(), None, None, exact, None, 0, True)
        fired = next(iter(plan.levels_at(t)), None)
        if fired is not None:
            run_fill(state, plan.levels[fired], checks=False)
            plain.fill(reference, plan.levels[fired], None)
        got.append(y)
        expected.append(exact)
    assert relative_error(torch.stack(got), torch.stack(expected)) < 1e-6


@pytest.mark.parametrize(
    ("text", "replacement", "expected"),
    [
        ("slot[r] - s * a.lanes", "slot[r] - (s + 1) * a.lanes", "out-of"),
        ("s <= taken[r]", "s <= a.taps", "out-of"),
        ("tile = blockIdx.x", "tile = 0 * blockIdx.x", "hazard"),
        ("tap + s * a.filter_lanes", "tap + (s + 1) * a.filter_lanes", "out-of"),
    ],
)
def test_planted_fault_in_the_history(text, replacement, expected):
    plan = Plan(64, (64,))
    state, _ = make_pair(plan, 60)
    state.positions[:] = 63
    with pytest.raises(emulator.load().EmuError, match=expected):
        run_history(state, edits=(("history.cuh", text, replacement),))


@pytest.mark.parametrize(
    ("text", "replacement", "expected"),
    [
        ("row_slots + p * a.lanes", "row_slots + (p + 1) * a.lanes", "out-of"),
        ("kVector * (blockIdx.x", "kVector * (0 * blockIdx.x", "hazard"),
        ("row * a.u_row + channel", "(row + 1) * a.u_row + channel", "out-of"),
    ],
)
def test_planted_fault_in_the_step(text, replacement, expected):
    plan = Plan(64, (64,))
    state, _ = make_pair(plan, 600)
    state.positions[:] = 63
    u = torch.randn(1, 600)
    run_history(state)
    with pytest.raises(emulator.load().EmuError, match=expected):
        run_apply(
            *(state, u, None, None, torch.empty(1, 600), None, 0, True),
            edits=(("apply_step.cuh", text, replacement),),
        )
