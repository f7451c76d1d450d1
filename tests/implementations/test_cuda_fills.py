"""CUDA fills in one kernel, compiled to PTX and run in an emulator with race, initialisation and
bounds checks, against the float64 reference, and planted faults."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.implementations import reference as plain
from futurefill_kernels.plan import Plan
from tests.emulation import emulator
from tests.emulation.cuda_rig import run_fill
from tests.fast import combinations
from tests.implementations.cuda_pairs import (
    ARCHS,
    FILL_ERROR,
    fill_errors,
    make_pair,
    needs_emulator,
)
from tests.oracles import relative_error

pytestmark = needs_emulator


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
        [
            *((3, 7, 7, None), (24, 33, 11, None), (63, 40, 1, 130), (100, 5, 5, 20)),
            *((300, 5, 5, None), (1000, 3, 3, None)),
        ],
        ARCHS,
        fast=[((24, 33, 11, None), "sm_80")],
    ),
    ids=str,
)  # fmt: skip
def test_fill_of_no_power_of_two(sizes, arch):
    """Shared and short filters."""
    block, channels, groups, taps = sizes
    plan = Plan(block * 7 - 2, (block, 4 * block), taps)
    state, reference = make_pair(plan, channels, groups=groups, batch=2, layers=2, taps=taps)
    positions = [i * block for i in range(1, 7) if i != 4]
    errors = fill_errors(state, reference, plan.levels[0], positions, arch=arch)
    assert max(errors) < FILL_ERROR


@pytest.mark.parametrize("block", combinations([3000, 5000], fast=[3000]))
def test_fill_of_units_of_channels_and_no_power_of_two(block):
    plan = Plan(3 * block - 5, (block,))
    state, reference = make_pair(plan, 5)
    errors = fill_errors(state, reference, plan.levels[0], [block, 2 * block])
    assert max(errors) < FILL_ERROR


@pytest.mark.parametrize(
    ("channels", "groups"), combinations([(8, 2), (96, 3), (40, 1), (70, 35)], fast=[(70, 35)])
)
def test_fill_with_shared_filters(channels, groups):
    plan = Plan(200, (32,))
    state, reference = make_pair(plan, channels, groups=groups, batch=3)
    errors = fill_errors(state, reference, plan.levels[0], [32 * i for i in range(1, 7)])
    assert max(errors) < FILL_ERROR


@pytest.mark.parametrize("taps", combinations([2, 20, 64, 65, 130], fast=[65]))
def test_fill_with_short_filters(taps):
    """Fewer spectra than blocks: the oldest kept spectrum's slot is taken by the newest."""
    plan = Plan(64 * 7, (64,), taps)
    state, reference = make_pair(plan, 5, taps=taps)
    positions = [64 * i for i in range(1, 7)]
    assert max(fill_errors(state, reference, plan.levels[0], positions)) < FILL_ERROR


@pytest.mark.parametrize("block", combinations([8, 24, 32, 64, 512], fast=[64, 24]))
def test_shares_of_late_fills(block):
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
            run_fill(state, late, channels=(first, last))
        reference.positions[:] = p
        plain.fill(reference, late, None)
        outputs = slice(p + late.late, p + late.late + block)
        expected = reference.ring[..., outputs, :]
        assert relative_error(state.ring[..., outputs, :70], expected) < FILL_ERROR
        before[..., outputs, :70] = state.ring[..., outputs, :70]
        assert torch.equal(state.ring, before)
        reference.ring.copy_(before[..., :70])
    state.positions[:] = block + late.steps
    run_fill(state, late)
    assert torch.equal(state.ring, before), "a fill after its steps"
    # below a late level, groups begin a block later
    positions = [n * block // 4 for n in range(1, 10)]
    errors = fill_errors(state, reference, plan.levels[0], positions)
    assert max(errors) < FILL_ERROR


def test_fill_of_chosen_rows():
    """Rows at positions of their own; the others, and padding rows, stay as they are."""
    plan = Plan(160, (16, 64))
    state, reference = make_pair(plan, 20, batch=4)
    level = plan.levels[0]
    state.positions.copy_(torch.tensor([16, 80, 144, 16]))
    reference.positions.copy_(state.positions)
    before = state.ring.clone()
    run_fill(state, level, torch.tensor([2, 0, -1, 1]))
    plain.fill(reference, level, torch.tensor([2, 0, 1]))
    assert torch.equal(state.ring[:, 3], before[:, 3])
    assert relative_error(state.ring[..., :20], reference.ring) < FILL_ERROR


@pytest.mark.parametrize("position", [0, 15, 64, 160, 176, -16])
def test_fill_at_other_positions_changes_nothing(position):
    plan = Plan(160, (16, 64))
    state, _ = make_pair(plan, 4)
    before = state.ring.clone()
    state.positions[:] = position
    run_fill(state, plan.levels[0])
    assert torch.equal(state.ring, before)
    assert not state.kept.any()


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
        ("future_fill.cuh", "(p - block + k)", "(p - block + k - 1)"),
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
