"""The CUDA kernels, compiled to PTX and run in an emulator with race, initialisation and bounds
checks, against the float64 reference; and planted faults, which the checks must find."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.implementations import reference as plain
from futurefill_kernels.plan import Plan
from futurefill_kernels.state.tensors import StreamState, allocate
from tests.emulation import emulator
from tests.emulation.cuda_compile import unavailable
from tests.emulation.cuda_rig import (
    make_state,
    run_apply,
    run_fill,
    run_fill_by_fft,
    run_history,
)
from tests.fast import combinations
from tests.oracles import history, poison_history, relative_error

pytestmark = pytest.mark.skipif(
    unavailable() is not None, reason=f"no CUDA emulation: {unavailable()}"
)
ARCHS = ("sm_80", "sm_90")
FILL_ERROR = 4e-7


def make_pair(
    plan: Plan,
    channels: int,
    *,
    groups: int | None = None,
    batch: int = 1,
    layers: int = 1,
    taps: int | None = None,
    skip: bool = False,
) -> tuple[StreamState, StreamState]:
    """A GPU stream and its float64 reference, full of the same random values."""
    torch.manual_seed(channels + plan.length)
    groups = groups or channels
    filters = [torch.randn(groups, taps or plan.length) for _ in range(layers)]
    skips = torch.randn(layers, channels) if skip else None
    state = make_state(filters, plan, batch, channels, skips)
    reference = allocate(
        plan,
        plain.make_layout(channels, groups, torch.float64, plan),
        plain.make_spectra,
        [h.double() for h in filters],
        batch,
        skips,
    )
    state.ring[..., :channels] = torch.randn(*state.ring.shape[:-1], channels)
    reference.ring.copy_(state.ring[..., :channels])
    return state, reference


def fill_errors(
    state, reference, level, positions, rows=None, run=run_fill, **options
) -> list[float]:
    """Fires a level at each position, all rows alike; relative errors of the block that follows."""
    channels, errors = state.layout.channels, []
    for p in positions:
        before = state.ring.clone()
        state.positions[:] = p
        reference.positions[:] = p
        run(state, level, rows, **options)
        plain.fill(reference, level, rows)
        filled = slice(p, p + level.block)
        assert torch.equal(state.ring[..., :p, :], before[..., :p, :]), "inputs changed"
        assert torch.equal(state.ring[..., channels:], before[..., channels:]), "padding changed"
        got = state.ring[..., filled, :channels]
        errors.append(relative_error(got, reference.ring[..., filled, :]))
        before[..., filled, :channels] = got
        assert torch.equal(state.ring, before), "outputs outside the block changed"
        got.copy_(torch.randn_like(got))  # the steps' inputs
        reference.ring[..., filled, :] = got
    return errors


@pytest.mark.parametrize(
    ("block", "radix", "arch"),
    combinations(
        [1, 2, 4, 8, 16, 32, 64, 128, 256, 512], [2, 4], ARCHS,
        fast=[(16, 4, "sm_80"), (64, 2, "sm_80")],
    ),
)  # fmt: skip
def test_fill_of_every_block(block, radix, arch):
    # a level inside a larger one: groups start again
    plan = Plan(2 * radix * block, (block, radix * block), 2 * radix * block)
    state, reference = make_pair(plan, 33, batch=2, layers=2)
    positions = [i * block for i in range(1, 2 * radix) if i % radix]
    errors = fill_errors(state, reference, plan.levels[0], positions, arch=arch)
    assert max(errors) < FILL_ERROR


@pytest.mark.parametrize(
    ("block", "arch", "memory"),
    combinations(
        [512, 1024, 2048, 4096, 8192], ARCHS, range(3),
        fast=[(512, "sm_80", 0), (2048, "sm_80", 0), (2048, "sm_80", 1), (4096, "sm_80", 1)],
    ),
)  # fmt: skip
def test_fill_of_large_blocks(block, arch, memory):
    """Exchanges of whole values, and in halves for devices with little shared memory."""
    plan = Plan(3 * block - 5, (block,))
    state, reference = make_pair(plan, 11)
    errors = fill_errors(
        state, reference, plan.levels[0], [block, 2 * block], arch=arch, memory=memory
    )
    assert max(errors) < FILL_ERROR


@pytest.mark.parametrize(
    ("channels", "block"), combinations([1, 7, 64, 100, 1000], [16, 64], fast=[(100, 16), (7, 64)])
)
def test_fill_of_many_channels(channels, block):
    plan = Plan(3 * block + 1, (block,))
    state, reference = make_pair(plan, channels)
    assert max(fill_errors(state, reference, plan.levels[0], [block, 2 * block])) < FILL_ERROR


@pytest.mark.parametrize(
    ("sizes", "arch"),
    combinations(
        [(3, 7, 7, None), (24, 33, 11, None), (63, 40, 1, 130), (100, 5, 5, 20)], ARCHS,
        fast=[((24, 33, 11, None), "sm_80")],
    ),
    ids=str,
)  # fmt: skip
def test_fill_through_fft(sizes, arch):
    """Blocks that are no powers of two; shared and short filters."""
    block, channels, groups, taps = sizes
    plan = Plan(block * 7 - 2, (block, 4 * block), taps)
    state, reference = make_pair(plan, channels, groups=groups, batch=2, layers=2, taps=taps)
    positions = [i * block for i in range(1, 7) if i != 4]
    errors = fill_errors(
        state, reference, plan.levels[0], positions, run=run_fill_by_fft, arch=arch
    )
    assert max(errors) < FILL_ERROR


@pytest.mark.slow
def test_fill_through_fft_of_a_large_block():
    plan = Plan(3 * 16384 - 100, (16384,))
    state, reference = make_pair(plan, 2)
    positions = [16384, 2 * 16384]
    errors = fill_errors(
        state, reference, plan.levels[0], positions, run=run_fill_by_fft, checks=False
    )
    assert max(errors) < FILL_ERROR


@pytest.mark.parametrize(
    ("channels", "groups"), combinations([(8, 2), (96, 3), (40, 1), (70, 35)], fast=[(70, 35)])
)
def test_fill_with_shared_filters(channels, groups):
    plan = Plan(200, (32,))
    state, reference = make_pair(plan, channels, groups=groups, batch=3)
    errors = fill_errors(state, reference, plan.levels[0], [32 * i for i in range(1, 7)])
    assert max(errors) < FILL_ERROR


@pytest.mark.parametrize("taps", combinations([1, 20, 64, 65, 130], fast=[65]))
def test_fill_with_short_filters(taps):
    """Fewer spectra than blocks: the oldest kept spectrum's slot is taken by the newest."""
    plan = Plan(64 * 7, (64,), taps)
    state, reference = make_pair(plan, 5, taps=taps)
    positions = [64 * i for i in range(1, 7)]
    assert max(fill_errors(state, reference, plan.levels[0], positions)) < FILL_ERROR


@pytest.mark.parametrize(
    ("block", "run"),
    combinations(
        [(8, run_fill), (32, run_fill), (64, run_fill), (512, run_fill), (24, run_fill_by_fft)],
        fast=[(64, run_fill), (24, run_fill_by_fft)],
    ),
)
def test_shares_of_late_fills(block, run):
    """Firings of a level with slack, 32 channels at a time in the steps that follow a boundary."""
    plan = Plan(7 * block - 3, (block // 4, block), slack_from=block)
    state, reference = make_pair(plan, 70, batch=2)
    late = plan.levels[1]
    assert late.late == late.steps == block // 4
    for p in range(block, 7 * block - 3 - late.late, block):
        before = state.ring.clone()
        for first, last in ((0, 32), (32, state.layout.lanes)):
            # the second share comes in the last step that may do one
            state.positions[:] = p + (late.steps - 1 if first else 0)
            run(state, late, channels=(first, last))
        reference.positions[:] = p
        plain.fill(reference, late, None)
        outputs = slice(p + late.late, p + late.late + block)
        expected = reference.ring[..., outputs, :]
        assert relative_error(state.ring[..., outputs, :70], expected) < FILL_ERROR
        before[..., outputs, :70] = state.ring[..., outputs, :70]
        assert torch.equal(state.ring, before)
        reference.ring.copy_(before[..., :70])
    state.positions[:] = block + late.steps
    run(state, late)
    assert torch.equal(state.ring, before), "a fill after its steps"
    # below a late level, groups begin a block later
    positions = [n * block // 4 for n in range(1, 10)]
    errors = fill_errors(state, reference, plan.levels[0], positions, run=run)
    assert max(errors) < FILL_ERROR


@pytest.mark.parametrize("run", [run_fill, run_fill_by_fft])
def test_fill_of_chosen_rows(run):
    """Rows at positions of their own; the others, and padding rows, stay as they are."""
    plan = Plan(160, (16, 64))
    state, reference = make_pair(plan, 20, batch=4)
    level = plan.levels[0]
    state.positions.copy_(torch.tensor([16, 80, 144, 16]))
    reference.positions.copy_(state.positions)
    before = state.ring.clone()
    run(state, level, torch.tensor([2, 0, -1, 1]))
    plain.fill(reference, level, torch.tensor([2, 0, 1]))
    assert torch.equal(state.ring[:, 3], before[:, 3])
    assert relative_error(state.ring[..., :20], reference.ring) < FILL_ERROR


@pytest.mark.parametrize("run", [run_fill, run_fill_by_fft])
@pytest.mark.parametrize("position", [0, 15, 64, 160, 176, -16])
def test_fill_at_other_positions_changes_nothing(position, run):
    plan = Plan(160, (16, 64))
    state, _ = make_pair(plan, 4)
    before = state.ring.clone()
    state.positions[:] = position
    run(state, plan.levels[0])
    assert torch.equal(state.ring, before)
    assert not state.kept.any()


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


BARRIER = ("exchange.cuh", "__syncthreads();", "")
FAULTS = {
    "barrier of the exchange": (512, BARRIER, "no __syncwarp"),
    "one transposed row too far": (
        512,
        ("exchange.cuh", "return k * (R3 + 1);", "return k * (R3 + 1) + 1;"),
        "hazard|uninit|out-of-bounds",
    ),
    "one input too early": (
        64,
        ("future_fill.cuh", "(p - T + k)", "(p - T + k - 1)"),
        "out-of-bounds",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_in_the_fill(fault):
    block, edit, expected = FAULTS[fault]
    plan = Plan(2 * block, (block,))
    state, _ = make_pair(plan, 16)
    state.positions[:] = block
    with pytest.raises(emulator.load().EmuError, match=expected):
        run_fill(state, plan.levels[0], edits=(edit,))


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("entry * 2 * a.lanes + channel", "entry * 2 * a.lanes + channel + a.kept_row"),
        ("natural) * a.width", "natural + a.width) * a.width"),
    ],
)
def test_planted_fault_in_the_products(text, replacement):
    plan = Plan(72, (24,))
    state, _ = make_pair(plan, 16)
    state.positions[:] = 24
    edit = ("spectrum_products.cuh", text, replacement)
    with pytest.raises(emulator.load().EmuError, match="out-of-bounds"):
        run_fill_by_fft(state, plan.levels[0], edits=(edit,))


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
        ("state * a.ring_row + p", "state * a.ring_row + (p + 1)", "out-of"),
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
