"""The second form of CUDA fills: which levels have it, and in the emulator against float64."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.implementations import cuda, cuda_early
from futurefill_kernels.implementations.mixed import Mixed
from futurefill_kernels.plan import Plan
from tests.emulation import cuda_rig, emulator, launch_shapes
from tests.fast import combinations
from tests.implementations import cuda_pairs
from tests.implementations.cuda_pairs import ARCHS, FILL_ERROR, fill_errors, needs_emulator


def arranged(plan: Plan, channels: int, **sizes):
    """As cuda_pairs.make_pair, with the spectra of this form."""
    state, reference = cuda_pairs.make_pair(plan, channels, **sizes)
    for level in plan.levels:
        if level.block in cuda_early.TILES:
            for spectra, h in zip(state.spectra, state.filters, strict=True):
                cuda_early.arrange_level(spectra, level, h, state.layout)
    return state, reference


def run(state, level, rows=None, **options):
    return cuda_rig.run_fill(state, level, rows, early=True, **options)


@needs_emulator
@pytest.mark.parametrize(
    ("block", "radix", "arch", "memory"),
    combinations(
        list(cuda_early.TILES), [2, 4], ARCHS, range(3),
        fast=[(64, 4, "sm_80", 0), (512, 2, "sm_90", 1)],
    ),
)  # fmt: skip
def test_fill_of_every_block(block, radix, arch, memory):
    """First products and kept spectra, two layers and rows, a short last block."""
    plan = Plan(2 * radix * block - 5, (block, radix * block), 2 * radix * block - 5)
    state, reference = arranged(plan, 33, batch=2, layers=2)
    positions = [i * block for i in range(1, 2 * radix) if i % radix]
    errors = fill_errors(
        state, reference, plan.levels[0], positions, run=run, arch=arch, memory=memory
    )
    assert max(errors) < FILL_ERROR


@needs_emulator
@pytest.mark.parametrize(
    ("channels", "groups", "taps"),
    combinations([(40, 10, 65), (96, 3, 130), (70, 35, 20)], fast=[(40, 10, 65)]),
)
def test_shared_and_short_filters_and_rows(channels, groups, taps):
    """The oldest kept spectrum's slot is taken by the newest; rows in any order and padding."""
    plan = Plan(64 * 7, (64,), taps)
    state, reference = arranged(plan, channels, groups=groups, batch=3, taps=taps)
    positions, rows = [64 * i for i in range(1, 7)], torch.tensor([2, 0, 1])
    errors = fill_errors(state, reference, plan.levels[0], positions, rows, run=run)
    assert max(errors) < FILL_ERROR
    before = state.ring.clone()
    run(state, plan.levels[0], torch.tensor([-1]))
    assert torch.equal(state.ring, before)


@needs_emulator
def test_shares_of_channels():
    plan = Plan(3 * 256, (256,))
    state, _ = arranged(plan, 70)
    state.positions[:] = 256
    before = state.ring.clone()
    run(state, plan.levels[0], channels=(32, 64))
    changed = (state.ring != before).any(dim=(0, 1, 2, 3))
    assert changed[32:64].all()
    assert not changed[:32].any()
    assert not changed[64:].any()


@needs_emulator
@pytest.mark.parametrize(
    ("file", "text", "replacement"),
    [
        ("multiply_spectra.cuh", "kConfig.units * 4;", "kConfig.units * 4 + 1;"),
        ("future_fill.cuh", "if (first + s * width < count) atomicAdd", "atomicAdd"),
    ],
)
def test_planted_fault(file, text, replacement):
    plan = Plan(2 * 64 - 5, (64,))
    state, _ = arranged(plan, 33)
    state.positions[:] = 64
    with pytest.raises(emulator.load().EmuError, match=r"misaligned|out-of-bounds"):
        run(state, plan.levels[0], edits=((file, text, replacement),))


def test_tiles_are_those_of_the_kernels():
    for block, channels in cuda_early.TILES.items():
        plan = Plan(2 * block, (block,))
        state = cuda_rig.make_state([torch.ones(1, plan.length)], plan, 1, 64)
        for memory in launch_shapes.memories(block):
            assert launch_shapes.fill_config(block, memory).channels == channels
            launch = launch_shapes.early_fill(state, plan.levels[0], None, 0, 64, memory)
            assert launch.kernel == f"future_fill<ConfigOf<{block}, {memory}, true, true>>"
    for block in (32, 4096):
        plan = Plan(2 * block, (block,))
        state = cuda_rig.make_state([torch.ones(1, plan.length)], plan, 1, 64)
        with pytest.raises(ValueError, match="no such kernel"):
            launch_shapes.early_fill(state, plan.levels[0], None, 0, 64, 1)


def test_other_levels_are_those_of_cuda():
    plan = Plan(20000, (16, 64, 4096))
    h = torch.randn(40, 20000, generator=torch.Generator().manual_seed(0))
    layout = cuda.make_layout(40, 40, torch.float32, plan)
    own, theirs = (
        Mixed(cuda, cuda, (fills,) * 3).make_spectra(h, plan, layout, torch.float32)
        for fills in (cuda_early, cuda)
    )
    starts = [level.spectra_offset for level in plan.levels]
    for level, start, stop in zip(plan.levels, starts, [*starts[1:], None], strict=True):
        same = torch.equal(own[:, start:stop], theirs[:, start:stop])
        assert same == (level.block != 64)
