"""What plans cost on GPUs, on machines without one: bytes as counted, launches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from futurefill_kernels import DeviceInfo, Plan
from futurefill_kernels.planning.capabilities import CAPABILITIES, on_gpus
from futurefill_kernels.planning.gpu_cost import (
    FFT,
    FFT_FILL_LAUNCHES,
    GpuCost,
    apply_bytes,
    fill_bytes,
    fill_launches,
    host_seconds,
    made_bytes,
    made_launches,
    made_line,
    step_line,
    times_of,
    token_bytes,
)
from futurefill_kernels.planning.gpu_times import Time
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


def test_bytes_of_a_ring_of_16_bits():
    """Inputs and pending outputs are half as wide, kept spectra are not; a slot of the open block
    goes to the ring and comes from there.
    """
    full, half = (Workload(4096, 4096, 64, 2, 3, 64, ring_itemsize=size) for size in (4, 2))
    assert fill_bytes(half, 256, 1, False) == 3 * 64 * 256 * (2 * 6 + 8)
    kept = fill_bytes(half, 256, 2, True) - fill_bytes(half, 256, 1, False)
    assert kept == fill_bytes(full, 256, 2, True) - fill_bytes(full, 256, 1, False)
    assert apply_bytes(half) - apply_bytes(full) == 3 * 2 * 64 * 12


@pytest.mark.parametrize("impl", on_gpus())
def test_a_block_of_several_launches_costs_them(impl):
    info, largest = DeviceInfo.named("h100"), CAPABILITIES[impl].largest_fused
    workload = Workload(65536, 65536, 1024, 1, 24, 1024, impls=(impl,))
    below, above = (
        GpuCost(workload, info).fill(impl, block, 1, False) for block in (largest, 2 * largest)
    )
    launch = times_of(info).of(impl).launch_seconds
    moved = fill_bytes(workload, 2 * largest, 1, False)
    launches = 24 * CAPABILITIES[impl].passes
    assert above - below > (launches - 1) * launch
    assert above > moved / info.dram_bytes_per_second
    assert fill_launches(workload, impl, largest) == 1
    assert fill_launches(workload, impl, 2 * largest) == launches


@pytest.mark.parametrize("impl", on_gpus())
def test_a_block_without_kernels_costs_what_torch_takes(impl):
    """Parts of 256 MiB of spectra, each with its launches."""
    workload = Workload(1 << 21, 1 << 21, 1024, 1, 24, 1024, impls=(impl,))
    cost, block = GpuCost(workload, DeviceInfo.named("h200")), 1 << 20
    assert cost.fill(impl, block, 1, False) == cost.fill(FFT, block, 1, False)
    assert cost.fill(impl, block // 4, 1, False) < cost.fill(FFT, block // 4, 1, False)
    assert fill_launches(workload, impl, block) == FFT_FILL_LAUNCHES * 24 * 1024 * 8 * block >> 28


@pytest.mark.parametrize("impl", on_gpus())
def test_a_token_costs_what_was_measured(impl):
    """On an H200, history and steps: within 9 % of every time."""
    info = DeviceInfo.named("h200")
    times = times_of(info)
    for size, layers, rows, seconds in times.of(impl).steps:
        cost = GpuCost(Workload(2 * size, 2 * size, times.channels, rows, layers, 1024), info)
        assert cost.steps(impl, size) == pytest.approx(seconds, rel=0.09)


@pytest.mark.parametrize("impl", on_gpus())
def test_a_fill_costs_what_was_measured(impl):
    """On an H200, the first of a group, without the host's launches: within 7 % of every time."""
    info = DeviceInfo.named("h200")
    times = times_of(info)
    found = times.of(impl)
    for block, layers, rows, seconds in found.fills:
        workload = Workload(2 * block, 2 * block, times.channels, rows, layers, times.channels)
        host = fill_launches(workload, impl, block) * found.launch_seconds
        cost = GpuCost(workload, info).fill(impl, block, 1, False) - host
        assert cost == pytest.approx(seconds, rel=0.07)


def test_a_level_is_done_by_what_is_fastest():
    info = DeviceInfo.named("h200")
    both = GpuCost(Workload(65536, 65536, 1024, 1, 24, 1024), info)
    for block in (64, 1024, 4096, 8192):
        each = [both.level_of(impl, block, 2) for impl in on_gpus()]
        assert both.level(block, 2) == min(each)
        assert each[0] != each[1]


def test_a_slower_device_takes_longer_by_its_rates():
    h200, l4 = DeviceInfo.named("h200"), DeviceInfo.named("l4")
    workload = Workload(65536, 65536, 1024, 1, 24, 1024)
    ratio = h200.dram_bytes_per_second / l4.dram_bytes_per_second
    for block in (256, 2048):
        fast, slow = (GpuCost(workload, info).fill("cuda", block, 1, False) for info in (h200, l4))
        assert 0.5 * ratio < slow / fast <= ratio
    tokens = [GpuCost(workload, info).first(256) for info in (h200, l4)]
    assert 1 < tokens[1] / tokens[0] < ratio


def test_making_spectra_costs_what_was_timed():
    """Times on a line come back; without any, fills, launches, and bytes at the measured bandwidth.
    A firing of many products takes as long as that many.
    """
    info = DeviceInfo.named("h200")
    times = times_of(info)
    made = []
    for block, layers, rows in ((4096, 1, 1), (16384, 24, 1), (8192, 2, 8)):
        channels = times.channels
        sizes = Workload(2 * block, 2 * block, channels, rows, layers, channels, impls=("cuda",))
        seconds = made_launches(sizes, block, 1) * 2e-5 + made_bytes(sizes, block, 1, 1) / 1e12
        made.append(Time(block, layers, rows, seconds))
    measured = replace(info, times=replace(times, made=tuple(made)))
    for block, layers, rows, seconds in made:
        workload = Workload(
            2 * block, 2 * block, times.channels, rows, layers, times.channels, impls=("cuda",)
        )
        cost = GpuCost(workload, measured)
        found = cost.making(block, 2) + cost.level(block, 2)
        assert found * workload.length == pytest.approx(seconds, rel=1e-6)
        untimed = GpuCost(workload, info)
        seconds_of_fill = untimed.fill("cuda", block, 1, False)
        expected = made_launches(workload, block, 1) * host_seconds(times, "cuda")
        expected += made_bytes(workload, block, 1, 1) / times.read_bytes_per_second
        found = (untimed.making(block, 2) + untimed.level(block, 2)) * workload.length
        assert found == pytest.approx(expected + seconds_of_fill)
        wide = replace(workload, length=8 * block, filter_length=8 * block)
        several = GpuCost(wide, measured)
        total = (several.making(block, 8) + several.level(block, 8)) * wide.length
        assert total == pytest.approx(28 * seconds, rel=1e-6)
    assert made_line(measured.times).error < 1e-6


def test_a_plan_costs_its_first_block_and_its_levels():
    info = DeviceInfo.named("l4")
    cost = GpuCost(Workload(65536, 65536, 256, 2, 3, 256), info)
    plan = Plan(65536, (16, 64, 2048))
    parts = [cost.first(16), cost.level(16, 4), cost.level(64, 32), cost.level(2048, 32)]
    assert cost.plan(plan) == pytest.approx(sum(parts))
    # latencies are all that a token of few taps waits for
    latency = step_line(times_of(info), "cuda").latency
    assert cost.first(1) == pytest.approx(4 * latency, rel=0.05)
    assert cost.firing(64, 4) == min(cost.fill(impl, 64, 2, True) for impl in on_gpus())
