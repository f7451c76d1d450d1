"""What plans cost on GPUs, on machines without one: bytes as counted, launches."""

from __future__ import annotations

import pytest

from futurefill_kernels import DeviceInfo, Plan
from futurefill_kernels.planning.capabilities import largest_fused, on_gpus
from futurefill_kernels.planning.gpu_cost import (
    APPLY_SECONDS,
    FFT_LAUNCHES,
    HISTORY_SECONDS,
    GpuCost,
    fill_bytes,
    fill_launches,
    token_bytes,
    workspace_bytes,
)
from futurefill_kernels.planning.workload import Workload


@pytest.mark.parametrize(("radix", "moved"), [(2, 10), (4, 31), (16, 131), (64, 516)])
def test_bytes_of_a_level(radix, moved):
    """Inputs 4, pending 8, spectra 8 each, the newest input spectrum stored while it is needed."""
    workload = Workload(64 * radix, 64 * radix, 32, 1, 1, 32)
    total = token_bytes(workload, Plan(64 * radix, (64,)))
    assert total == pytest.approx(moved, abs=2)


def test_rows_share_filter_spectra():
    one = fill_bytes(Workload(4096, 4096, 64, 1, 3, 64), 256, 1, False)
    eight = fill_bytes(Workload(4096, 4096, 64, 8, 3, 64), 256, 1, False)
    shared = fill_bytes(Workload(4096, 4096, 64, 8, 3, 1), 256, 1, False)
    assert one == 3 * 64 * 256 * 20
    assert eight == 3 * 64 * 256 * (8 * 12 + 8)
    assert shared == 3 * 256 * (8 * 64 * 12 + 8)


def test_bytes_of_bfloat16_spectra():
    full, half = (Workload(4096, 4096, 64, 1, 3, 64, spectra_itemsize=size) for size in (4, 2))
    assert fill_bytes(full, 256, 1, False) == 3 * 64 * 256 * 20
    assert fill_bytes(half, 256, 1, False) == 3 * 64 * 256 * 16


@pytest.mark.parametrize("impl", on_gpus())
def test_a_block_of_several_launches_costs_them(impl):
    info, largest = DeviceInfo.named("h100"), largest_fused(impl)
    workload = Workload(65536, 65536, 1024, 1, 24, 1024, largest_fused=largest)
    below, above = (
        GpuCost(workload, info).fill(block, 1, False) for block in (largest, 2 * largest)
    )
    moved = fill_bytes(workload, 2 * largest, 1, False)
    assert above - below > 23 * FFT_LAUNCHES * info.launch_seconds
    assert above > moved / info.dram_bytes_per_second
    assert fill_launches(workload, largest) == 1
    assert fill_launches(workload, 2 * largest) == 24 * FFT_LAUNCHES
    assert workspace_bytes(workload, largest) == 0 < moved < workspace_bytes(workload, 2 * largest)


@pytest.mark.parametrize(
    ("block", "batch", "measured", "error"),
    [
        (16, 1, 1.32, 0.02),
        (32, 1, 1.32, 0.02),
        (64, 1, 1.35, 0.02),
        (128, 1, 1.40, 0.06),
        (256, 1, 1.68, 0.02),
        (512, 1, 2.14, 0.03),
        (64, 8, 1.93, 0.1),
        (64, 64, 4.48, 0.16),
    ],
)
def test_a_token_costs_what_was_measured(block, batch, measured, error):
    """Microseconds per layer of 24 on an H200, history and steps."""
    cost = GpuCost(Workload(65536, 65536, 1024, batch, 24, 1024), DeviceInfo.named("h200"))
    assert cost.first(block) / 24 == pytest.approx(1e-6 * measured, rel=error)


@pytest.mark.parametrize(("block", "measured"), [(64, 16.3), (256, 75)])
def test_a_fill_costs_what_was_measured(block, measured):
    """Microseconds of 24 layers on an H200, the first of a group, without the host's launch."""
    info = DeviceInfo.named("h200")
    cost = GpuCost(Workload(65536, 65536, 1024, 1, 24, 1024), info)
    assert cost.fill(block, 1, False) - info.launch_seconds == pytest.approx(
        1e-6 * measured, rel=0.16
    )


def test_a_plan_costs_its_first_block_and_its_levels():
    cost = GpuCost(Workload(65536, 65536, 256, 2, 3, 256), DeviceInfo.named("l4"))
    plan = Plan(65536, (16, 64, 2048))
    parts = [cost.first(16), cost.level(16, 4), cost.level(64, 32), cost.level(2048, 32)]
    assert cost.plan(plan) == pytest.approx(sum(parts))
    # latencies are all that a token of few taps waits for
    assert cost.first(1) == pytest.approx(3 * APPLY_SECONDS + HISTORY_SECONDS, rel=0.02)
    assert cost.firing(64, 4) == cost.fill(64, 2, True)
