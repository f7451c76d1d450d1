"""Choices of block sizes on CPUs."""

from __future__ import annotations

import dataclasses

import pytest

from futurefill_kernels import DeviceInfo, make_plan
from futurefill_kernels.planning.cpu_cost import CpuRates, shipped_rates
from futurefill_kernels.planning.cpu_plan import LARGEST_SLACK_BLOCK, cheapest_plan, latency_plan
from futurefill_kernels.planning.workload import Workload

CPU = dataclasses.replace(
    DeviceInfo.of("cpu"),
    sm_count=1,
    dram_bytes_per_second=15.6e9,
    fp32_flops=68e9,
    last_level_bytes=32 << 20,
)
RATES = CpuRates.from_dict(shipped_rates("avx512"), CPU)


@pytest.mark.parametrize(
    ("length", "channels", "batch_size", "sizes"),
    [
        (8, 16, 1, (8,)),
        (8192, 768, 1, (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)),
        (16384, 1024, 4, (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)),
        (65536, 16, 1, (16, 32, 64, 256, 2048, 4096, 8192, 16384, 32768)),
    ],
)
def test_the_planners_choices(length, channels, batch_size, sizes):
    """A changed row is a changed choice: measure it (python -m bench plan), then change the row.

    From the shipped rates of an AVX-512 processor, whatever this one is.
    """
    workload = Workload(length, length, channels, batch_size, 1, channels)
    assert cheapest_plan(workload, RATES).block_sizes == sizes


@pytest.mark.parametrize(
    ("length", "channels", "layers", "sizes", "slack_from"),
    [
        (65536, 64, 1, (16, 32, 64, 128, 256, 512, 2048, 8192), 2048),
        (65536, 1024, 1, (16, 32, 64, 256, 1024, 4096, 16384), 256),
        (65536, 1024, 24, (16, 64, 256, 1024, 4096, 16384), 64),
        (1 << 20, 1024, 24, (16, 64, 256, 1024, 4096, 16384, 65536), 64),
        (2048, 16, 1, (16, 32, 64, 128, 256, 512, 1024), None),
    ],
)
def test_latency_plans(length, channels, layers, sizes, slack_from):
    """No fill that is due at once takes longer than 0.1 ms; above it there is slack."""
    plan = latency_plan(Workload(length, length, channels, 1, layers, channels), RATES)
    assert (plan.block_sizes, plan.slack_from) == (sizes, slack_from)
    assert plan.block_sizes[-1] <= max(LARGEST_SLACK_BLOCK, length // 16)


def test_short_filters_need_no_block_beyond_them():
    """A filter shorter than the stream keeps its last level a sliding window."""
    plan = make_plan(1 << 16, 64, filter_length=1024, device=CPU)
    assert max(plan.block_sizes) <= 2048
    assert plan.bytes_per_channel() < make_plan(1 << 16, 64, device=CPU).bytes_per_channel()
