"""What plans cost on CPUs: from rates as tune stores them, tiers, threads."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from futurefill_kernels import Plan, native
from futurefill_kernels.planning.cpu_cost import (
    SHIPPED,
    TIERS,
    WORK,
    CpuCost,
    CpuRates,
    Fill,
    shipped_rates,
)
from futurefill_kernels.planning.device import DeviceInfo
from futurefill_kernels.planning.workload import Workload


def level_ns(workload: Workload, rates: CpuRates, block: int, radix: int) -> float:
    """Of one channel."""
    return 1e9 * CpuCost(workload, rates).level(block, radix) / workload.all_channels


def test_costs_follow_the_rates():
    info = dataclasses.replace(DeviceInfo.of("cpu"), last_level_bytes=32 << 20)
    rates = {
        "steps": [[4, 1.0], [16, 2.0], [64, 6.0]],
        "fills": [[16, [[8, 0, 2], [16, 0, 4], [32, 0, 8]]], [64, [[80, 8, 8]] * 3]],
        "firing_ns": 150,
        "threads": [],
        "handover_ns": 0,
        "l2_bytes": 1 << 20,
    }
    r = CpuRates.from_dict(rates, info)
    small, large = (Workload(4096, 4096, d, 1, 1, d) for d in (16, 1 << 20))
    assert CpuCost(small, r).step_ns(16) == 2.0
    assert 2.0 < CpuCost(small, r).step_ns(32) < 6.0
    assert CpuCost(small, r).step_ns(1024) > 20
    # a firing of one product every 32 tokens, data in the second-level cache or in memory
    assert level_ns(small, r, 16, 2) == pytest.approx((8 + 150 / 16) / 32)
    assert level_ns(large, r, 16, 2) == pytest.approx(1.0, rel=0.01)
    assert level_ns(large, r, 64, 4) == pytest.approx((80 * 3 + 8 * 3 + 8 * 2) / 256, rel=0.01)


def test_a_ring_of_16_bits_leaves_more_in_the_caches():
    info = dataclasses.replace(DeviceInfo.of("cpu"), last_level_bytes=1 << 22)
    rates = {
        "steps": [[4, 1.0], [16, 2.0]], "fills": [[16, [[8, 0, 2], [16, 0, 4], [32, 0, 8]]]],
        "firing_ns": 0, "threads": [], "handover_ns": 0, "l2_bytes": 1 << 20,
    }  # fmt: skip
    r = CpuRates.from_dict(rates, info)
    wide = Workload(4096, 4096, 1 << 12, 1, 1, 1 << 12)
    half = dataclasses.replace(wide, ring_itemsize=2)
    touched = 20 * 16 * 4096, 18 * 16 * 4096
    far = [(math.log2(n / (1 << 20)) + 1) / 2 for n in touched]
    near = [8 + 8 * share for share in far]
    assert 0 < far[1] < far[0] < 1
    got = [CpuCost(w, r).fill_ns(16, 2, 1, False) for w in (wide, half)]
    assert got == pytest.approx(near)


@pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None, reason="no engine that spreads work"
)
def test_threads_share_the_work_where_there_is_enough():
    rates = CpuRates(
        ((16, 2.0),), ((16, (Fill(8, 0, 2),) * 3),), 0.0,
        ((2, (0.5, 0.5, 0.6, 0.8)), (4, (0.3, 0.3, 0.5, 0.8))), 100.0, 1 << 20, 32 << 20, 8,
    )  # fmt: skip
    one = dataclasses.replace(rates, available=1)
    few, many = (Workload(4096, 4096, d, 1, 1, d) for d in (16, 1 << 16))
    alone, shared = CpuCost(few, one), CpuCost(few, rates)
    assert shared.step_ns(16) == alone.step_ns(16) == 2.0
    assert shared.fill_ns(16, 2, 1, False) == alone.fill_ns(16, 2, 1, False)
    # four threads measured, eight gain as much again
    assert rates.factor(0, 4) == pytest.approx(0.3)
    assert rates.factor(0, 8) == pytest.approx(0.18)
    alone, shared = CpuCost(many, one), CpuCost(many, rates)
    assert shared.step_ns(16) == pytest.approx(2 * 0.18 + 100 / (1 << 16))
    assert alone.fill_ns(16, 2, 1, False) == 8
    # 600 channels of 16 taps are enough for two threads of the engine
    two, some = dataclasses.replace(rates, available=2), Workload(4096, 4096, 600, 1, 1, 600)
    assert CpuCost(some, two).step_ns(16) == pytest.approx(2 * 0.5 + 100 / 600)
    # data from caches and memory, where more threads bring less
    assert rates.factor(2, 8) == pytest.approx(0.5 * 0.5 / 0.6)
    assert 8 * rates.factor(1, 8) < shared.fill_ns(16, 2, 1, False) < 8 * rates.factor(3, 8)


def test_a_workload_costs_what_its_channels_do():
    """Seconds per token of all layers and rows; a plan is its first block and its levels."""
    rates = CpuRates(
        ((16, 2.0), (32, 4.0)), ((16, (Fill(8, 1, 2),) * 3),), 0.0, (), 0.0, 1 << 20, 32 << 20
    )
    cost = CpuCost(Workload(4096, 4096, 10, 3, 2, 10), rates)
    assert cost.first(16) == pytest.approx(2e-9 * 60)
    # three firings in 64 tokens, of one to three products; two of them keep a spectrum
    assert cost.level(16, 4) == pytest.approx(60e-9 * (3 * 8 + (1 + 2) * 2 + 2 * 1) / 64)
    assert cost.firing(16, 4) == pytest.approx(60e-9 * (3 * 8 + (1 + 2) * 2 + 2 * 1) / 3)
    plan = Plan(4096, (16, 64))
    assert cost.plan(plan) == cost.first(16) + cost.level(16, 4) + cost.level(64, 64)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_shipped_rates_are_whole(isa):
    rates = CpuRates.from_dict(shipped_rates(isa), DeviceInfo.of("cpu"))
    assert [block for block, _ in rates.fills] == [1 << k for k in range(2, 18)]
    assert all(len(tiers) == len(TIERS) for _, tiers in rates.fills)
    assert all(len(factors) == len(WORK) for _, factors in rates.threads)
    assert json.loads(SHIPPED.read_text())[isa]["kind"] == "cpu"
