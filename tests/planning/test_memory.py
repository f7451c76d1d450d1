"""Bytes of a workload, and refusals before anything is allocated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from futurefill_kernels import DeviceInfo, Plan
from futurefill_kernels.planning.memory import (
    available_nbytes,
    check_memory,
    first_nbytes,
    level_nbytes,
    needed_nbytes,
    spectra_nbytes,
    usable_bytes,
)
from futurefill_kernels.planning.workload import Workload
from futurefill_kernels.state.layout import Layout
from futurefill_kernels.state.spectra import tiled_spectra
from futurefill_kernels.state.tensors import LEVEL_COLUMNS, allocate


@pytest.mark.parametrize("sizes", [(16, 64, 128), (7, 21), (500,)])
@pytest.mark.parametrize(("groups", "batch"), [(40, 1), (8, 3)])
@pytest.mark.parametrize(
    ("arithmetic", "spectra", "filters", "ring"),
    [
        (torch.float32, torch.float32, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16, torch.float16),
        (torch.float64, torch.float64, torch.float64, torch.float64),
        (torch.float64, torch.float64, torch.bfloat16, torch.float64),
    ],
)
def test_needed_bytes_are_those_of_a_cache(
    sizes, groups, batch, arithmetic, spectra, filters, ring
):
    plan = Plan(500, sizes)
    workload = Workload(
        500, 500, 40, batch, 2, groups, arithmetic.itemsize, spectra.itemsize,
        ring_itemsize=ring.itemsize, filters_itemsize=filters.itemsize,
    )  # fmt: skip
    h = [torch.randn(groups, 500, dtype=arithmetic) for _ in range(2)]
    layout = Layout.padded(40, groups, plan.length)
    state = allocate(
        plan, layout, tiled_spectra, h, batch, None, spectra, filters_dtype=filters, ring_dtype=ring
    )
    assert needed_nbytes(workload, plan) == state.nbytes


@pytest.mark.parametrize("itemsize", [4, 2])
def test_what_levels_hold_is_part_of_it(itemsize):
    """Without the padding of channels, the tables of levels and the positions."""
    plan = Plan(500, (16, 64, 128))
    workload = Workload(500, 500, 64, 3, 2, 32, spectra_itemsize=itemsize)
    levels = sum(level_nbytes(workload, level.block, level.radix) for level in plan.levels)
    kept = 8 * 2 * 3 * 64 * plan.kept_rows
    assert levels == spectra_nbytes(workload, plan.spectra_rows) + kept
    ring = 2 * 3 * 64 * 500 * 4
    filters = 2 * 32 * 500 * 4
    total = levels + first_nbytes(workload, 16) + ring + filters
    undo_and_history = 2 * 2 * 3 * 64 * 4
    numbers = 2 * 3 + 2 * 3 + len(LEVEL_COLUMNS) * len(plan.levels)
    assert needed_nbytes(workload, plan) - total == undo_and_history + 8 * numbers


def test_a_first_block_of_16_bits_has_open_blocks():
    wide = Workload(500, 500, 64, 3, 2, 32)
    assert first_nbytes(wide, 16) == 4 * 2 * 32 * 16
    half = replace(wide, ring_itemsize=2)
    assert first_nbytes(half, 16) == 4 * 2 * 32 * 16 + 4 * 2 * 3 * 64 * 16
    plans = Plan(500, (16, 64)), Plan(500, (32, 64))
    needed = [needed_nbytes(half, plan) - 8 * half.layers * 32 * plan.spectra_rows
              - kept_rows_nbytes(half, plan) for plan in plans]  # fmt: skip
    levels = 8 * len(LEVEL_COLUMNS) * (len(plans[1].levels) - len(plans[0].levels))
    assert needed[1] - needed[0] == first_nbytes(half, 32) - first_nbytes(half, 16) + levels


def kept_rows_nbytes(workload, plan):
    return 8 * workload.all_channels * plan.kept_rows


def test_memory_is_checked_before_it_is_allocated():
    total, device, plan = DeviceInfo.of("cpu").memory_bytes, torch.device("cpu"), Plan(4, (1,))
    check_memory(lambda rows, plan: total, 1, plan, device)
    with pytest.raises(MemoryError, match=f"needs {total + 1} bytes, cpu has {total}: use fewer"):
        check_memory(lambda rows, plan: total + 1, 1, plan, device)
    check_memory(lambda rows, plan: 1 << 60, 1, plan, torch.device("meta"))


@pytest.mark.parametrize("sizes", [(16, 64, 256), (1000,), ((4, 8, 32), 8)])
def test_what_would_fit_is_the_largest_that_does(sizes):
    """Bytes grow with rows times tokens; at 600 a row and token, so many fit."""
    slack = sizes[1] if isinstance(sizes[0], tuple) else None
    plan = Plan(1000, sizes[0] if slack else sizes, slack_from=slack)
    each = available_nbytes(torch.device("cpu")) // 600

    def nbytes(rows, plan):
        return rows * plan.length * each

    with pytest.raises(MemoryError, match=r": max_new_tokens 600 would fit"):
        check_memory(nbytes, 1, plan, torch.device("cpu"))
    with pytest.raises(MemoryError, match=r": max_new_tokens 120 would fit"):
        check_memory(nbytes, 5, plan, torch.device("cpu"))
    few = Plan(100, (5,))
    with pytest.raises(MemoryError, match=r": batch_size 6 or max_new_tokens 85 would fit; or use"):
        check_memory(nbytes, 7, few, torch.device("cpu"))


def test_a_tenth_of_a_gpu_is_left_to_others():
    info = DeviceInfo.named("h100")
    assert usable_bytes(info) == pytest.approx(0.9 * info.memory_bytes, abs=1)
