"""The CUDA kernels on a ring in 16 bits, in the emulator, against sums in float64 rounded once."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.checks import HALVES
from futurefill_kernels.implementations import reference as plain
from futurefill_kernels.plan import Plan
from futurefill_kernels.state.tensors import StreamState, allocate
from tests.emulation import emulator
from tests.emulation.cuda_rig import make_state, run_apply, run_fill, run_history, run_long_fill
from tests.fast import combinations
from tests.implementations.cuda_pairs import ARCHS, FILL_ERROR, needs_emulator
from tests.oracles import relative_error, short_range

pytestmark = needs_emulator


def make_states(
    plan: Plan, channels: int, ring_dtype: torch.dtype, groups: int, batch: int
) -> tuple[StreamState, StreamState]:
    """Two layers of a GPU stream and of one whose arithmetic is float64, with the same values."""
    torch.manual_seed(channels + plan.length)
    filters = [torch.randn(groups, plan.length) for _ in range(2)]
    state = make_state(filters, plan, batch, channels, ring_dtype=ring_dtype)
    exact = allocate(
        plan, plain.make_layout(channels, groups, torch.float64, plan), plain.make_spectra,
        [h.double() for h in filters], batch, None, ring_dtype=ring_dtype,
    )  # fmt: skip
    for x, y in ((state.ring, exact.ring), (state.open_block, exact.open_block)):
        x[..., :channels] = torch.randn(*y.shape)
        y.copy_(x[..., :channels])
    return state, exact


def check_fill(state, exact, level, position, run=run_fill, rows=None, **options):
    """One firing, compared in all of the state."""
    channels, start = state.channels, state.ring.clone()
    for each in (state, exact):
        each.positions.fill_(position)
    run(state, level, rows, **options)
    plain.fill(exact, level, rows)
    filled = slice(position, position + level.block)
    got, expected = state.ring[..., filled, :channels], exact.ring[..., filled, :]
    # a float32 sum may lie on the other side of the middle between two numbers; its error is
    # relative to the block, of whose outputs the furthest off is so by four times the mean
    size = max(16.0, float(expected.double().square().mean().sqrt()))
    limits = {"rtol": torch.finfo(got.dtype).eps, "atol": 4 * FILL_ERROR * size}
    torch.testing.assert_close(got, expected, **limits)
    assert (got != expected).double().mean() < 2e-3
    start[..., filled, :channels] = got
    assert torch.equal(state.ring, start), "slots outside the block changed"
    if exact.open_block.numel():
        assert relative_error(state.open_block[..., :channels], exact.open_block) < FILL_ERROR
        assert not state.open_block[..., channels:].any(), "padding changed"
    got.copy_(expected)


FILLS = [
    ((1, 4), 33, 3), ((2, 16), 40, 10), ((4, 64), 7, 7), ((64, 128), 33, 33), ((3, 24), 100, 5),
    ((24, 48), 33, 33), ((16, 512), 11, 11), ((5, 600), 3, 3), ((32, 2048), 5, 5),
    ((512, 4096), 9, 3), ((16, 8192), 9, 9), ((8, 3000), 5, 5),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sizes", "ring_dtype", "arch"),
    combinations(
        FILLS, HALVES, ARCHS,
        fast=[(FILLS[1], torch.bfloat16, "sm_80"), (FILLS[4], torch.float16, "sm_80")],
    ),
    ids=str,
)  # fmt: skip
def test_fills(sizes, ring_dtype, arch):
    """Into the open block and behind it; the second has less than an open block of outputs."""
    (base, block), channels, groups = sizes
    plan = Plan(2 * block + (base + 1) // 2, (base, block))
    state, exact = make_states(plan, channels, ring_dtype, groups, 2)
    memory = 0 if arch == "sm_80" else 2
    for n in (1, 2):
        check_fill(state, exact, plan.levels[-1], n * block, arch=arch, memory=memory)


@pytest.mark.parametrize("ring_dtype", HALVES)
def test_fills_of_chosen_rows_and_without_an_open_block(ring_dtype):
    plan = Plan(40, (4, 8))
    state, exact = make_states(plan, 6, ring_dtype, 3, 4)
    for level in plan.levels:
        check_fill(state, exact, level, level.block, rows=torch.tensor([3, -1, 0]))
        closed = [x.without_open_block() for x in (state, exact)]
        check_fill(*closed, level, level.block)


@pytest.mark.parametrize(
    ("block", "ring_dtype", "arch"),
    combinations(
        [9000, 32768, 1 << 16, 1 << 18], HALVES, ARCHS, fast=[(9000, torch.bfloat16, "sm_90")]
    ),
)
def test_fills_in_three_passes(block, ring_dtype, arch):
    plan = Plan(2 * block + 3, (block // 8, block))
    state, exact = make_states(plan, 2, ring_dtype, 1, 1)
    for n in (1, 2):
        options = {"run": run_long_fill, "arch": arch, "checks": block < 10000}
        check_fill(state, exact, plan.levels[-1], n * block, **options)


@pytest.mark.parametrize(
    ("sizes", "ring_dtype", "dtype", "arch"),
    combinations(
        [((5, 10), 7, 7, 3), ((16, 32), 40, 10, 9), ((5,), 1000, 1000, 2), ((64, 128), 33, 3, 1)],
        HALVES, [torch.float32, torch.bfloat16, torch.float16], ARCHS,
        fast=[
            (((5, 10), 7, 7, 3), torch.float16, torch.float32, "sm_80"),
            (((16, 32), 40, 10, 9), torch.bfloat16, torch.float32, "sm_80"),
            (((5,), 1000, 1000, 2), torch.bfloat16, torch.bfloat16, "sm_80"),
        ],
    ),
    ids=str,
)  # fmt: skip
def test_token(sizes, ring_dtype, dtype, arch):
    """History and steps read and write the open block alone; an input is rounded after its own
    output. Rows at positions of their own; a plan of one block has all of its slots open.
    """
    blocks, channels, groups, batch = sizes
    plan = Plan(3 * blocks[-1] - 1, blocks)
    state, _ = make_states(plan, channels, ring_dtype, groups, batch)
    base, opened = plan.base, state.open_block.shape[3]
    state.positions.copy_(torch.arange(batch) * 7 % plan.length)
    state.positions[-1] = plan.length - 1
    places = (state.positions % opened).tolist()
    for row, at in enumerate(places):  # of the block
        state.open_block[:, row, :, : at - int(state.positions[row]) % base] = torch.nan
        state.open_block[:, row, :, at + 1 :] = torch.nan
    ring, before = state.ring.fill_(torch.nan).clone(), state.open_block.clone()
    u, pre = (torch.randn(batch, channels).to(dtype) for _ in "up")
    run_history(state, arch=arch)
    for layer, h in enumerate(state.filters):
        y = torch.full_like(u, torch.nan)
        run_apply(state, u, pre, None, y, None, layer, layer == 1, arch=arch)
        x = u.float() * pre.float()
        for row, at in enumerate(places):
            inside = at % base
            block = before[layer, row, 0, at - inside : at + 1, :channels]
            inputs = torch.cat([block[:-1], x[row, None]])
            exact = short_range(block[-1], inputs, h)
            limit = {torch.float32: 3e-7, torch.float16: 6e-4, torch.bfloat16: 5e-3}[dtype]
            assert relative_error(y[row], exact) < limit
            assert torch.equal(state.undo[layer, row, 0, 0], before[layer, row, 0, at])
            before[layer, row, 0, at, :channels] = x[row].to(ring_dtype)
    assert torch.equal(state.open_block.nan_to_num(9.0), before.nan_to_num(9.0))
    assert torch.equal(state.ring.isnan(), ring.isnan()), "the ring was touched"


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("a.open_slots, count);", "a.open_slots - 1, count);"),
        ("narrow ? open_block + open", "narrow ? open_block + open + a.lanes"),
        ("narrow ? min(a.open_slots, count)", "narrow ? count"),
        ("brain ? __bfloat16_as_ushort", "!brain ? __bfloat16_as_ushort"),
    ],
)
def test_planted_fault(text, replacement):
    plan = Plan(20, (4, 8))
    state, exact = make_states(plan, 5, torch.bfloat16, 5, 1)
    with pytest.raises((AssertionError, emulator.load().EmuError)):
        check_fill(*(state, exact, plan.levels[1], 16), edits=(("ring.cuh", text, replacement),))
