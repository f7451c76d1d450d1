"""memory=: what rows and filters take, before anything is allocated."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from futurefill_kernels import DeviceInfo, FutureFillCache, Plan, make_plan
from futurefill_kernels.planning.cpu_cost import CpuCost, CpuRates, shipped_rates
from futurefill_kernels.planning.small import (
    FILTER_BYTES,
    ROW_BYTES,
    SPEED_SHARE,
    keeps_little,
    longest_first_block,
    made_small,
    made_where_cheap,
)
from futurefill_kernels.planning.workload import Workload
from futurefill_kernels.state.layout import Layout
from futurefill_kernels.state.tensors import state_parts

CPU = DeviceInfo.of("cpu")


def per_token(plan, batch, filters_itemsize=4):
    layout = Layout.padded(64, 64, plan.length)
    sizes = {"layers": 2, "batch_size": batch, "filters_itemsize": filters_itemsize}
    parts = state_parts(plan, layout, **sizes)
    values = 2 * 64 * plan.length
    row = sum(parts[name] for name in ("ring", "kept", "undo", "history", "images"))
    filters = sum(parts[name] for name in ("filters", "taps", "spectra"))
    return row / batch / values, filters / values


@pytest.mark.parametrize("device", [CPU, DeviceInfo.named("h200"), DeviceInfo.named("l4")])
@pytest.mark.parametrize("length", [1024, 1500, 16384, 65536, 100_000])
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_small_holds_what_it_promises(device, length, batch):
    plan = make_plan(length, 64, batch_size=batch, layers=2, device=device, memory="small")
    row, filters = per_token(plan, batch)
    assert row <= ROW_BYTES[4]
    assert filters <= FILTER_BYTES
    assert per_token(plan, batch, filters_itemsize=2)[1] <= FILTER_BYTES - 2


@pytest.mark.parametrize("device", [CPU, DeviceInfo.named("h100")])
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_speed_keeps_no_more_than_the_ring(device, batch):
    plan = make_plan(16384, 64, batch_size=batch, device=device)
    assert 8 * plan.kept_rows <= 4 * plan.length


@pytest.mark.parametrize("batch", [1, 4, 8, 64])
def test_speed_makes_spectra_where_all_of_it_is_a_small_share(batch):
    cost = CpuCost(
        Workload(16384, 16384, 256, batch, 1, 256), CpuRates.from_dict(shipped_rates("avx2"), CPU)
    )
    plan = made_where_cheap(Plan.continuous(16384, 16), cost)
    made = [level for level in plan.levels if level.made]
    assert bool(made) == (batch > 1)
    extra = sum(cost.making(level.block, level.radix) for level in made)
    assert extra <= SPEED_SHARE * cost.plan(plan)
    largest = [level for level in plan.levels if not level.made][-1]
    more = extra + cost.making(largest.block, largest.radix)
    assert more > SPEED_SHARE * cost.plan(plan) or largest.block < 64


def test_kept_input_spectra_of_16_bits_are_compared_with_what_is_left():
    """They stay float32, and the open block takes of the room."""
    wide = Workload(4096, 4096, 8, 1, 1, 8)
    half = dataclasses.replace(wide, ring_itemsize=2)
    double = dataclasses.replace(wide, itemsize=8, ring_itemsize=8)
    keeping = Plan(4096, (1024,))
    assert 2 * keeping.slots < 8 * keeping.kept_rows <= 4 * keeping.slots
    assert keeps_little(keeping, wide, "speed")
    assert keeps_little(keeping, double, "speed")
    assert not keeps_little(keeping, half, "speed")
    assert [longest_first_block(w, "small") for w in (wide, half)] == [512, 102]
    assert [longest_first_block(w, "speed") for w in (wide, half)] == [4096, 1024]
    assert longest_first_block(Workload(1000, 1000, 8, 1, 1, 8), "small") == 1000


def test_a_given_plan_becomes_small_and_one_with_slack_is_refused():
    plan = made_small(Plan.continuous(4096, 32))
    assert plan.made_from == 512
    assert plan == dataclasses.replace(Plan.continuous(4096, 32), made_from=512)
    already = Plan(100, (32, 64), made_from=32)
    assert made_small(already) == already
    wide = Workload(4096, 4096, 8, 1, 1, 8)
    assert not keeps_little(Plan(4096, (512,)), wide, "speed")
    assert keeps_little(Plan(4096, (1024,)), wide, "speed")
    assert not keeps_little(Plan(4096, (1024,)), wide, "small")
    with pytest.raises(ValueError, match=r"memory='speed' with slack.*for slack_from=64"):
        made_small(Plan(4096, (32, 64), slack_from=64))
    with pytest.raises(ValueError, match="for objective='latency'"):
        make_plan(4096, 8, device=CPU, objective="latency", memory="small")
    with pytest.raises(ValueError, match=r"expected memory to be one of .* got 'large'"):
        make_plan(4096, 8, device=CPU, memory="large")


def test_what_fits_one_h200():
    """24 layers of 4096 channels, 65,536 tokens, one row."""
    plan = make_plan(65536, 4096, layers=24, device=DeviceInfo.named("h200"), memory="small")
    layout = Layout.padded(4096, 4096, 65536)
    assert sum(state_parts(plan, layout, layers=24, batch_size=1).values()) < 60e9


@pytest.mark.parametrize("device", [CPU, DeviceInfo.named("h200")])
@pytest.mark.parametrize("length", [1024, 1500, 16384, 65536])
@pytest.mark.parametrize("batch", [1, 8])
def test_a_row_of_16_bits_takes_little_more_than_two_bytes(device, length, batch):
    plan = make_plan(
        length, 64, batch_size=batch, device=device, memory="small", state_dtype=torch.float16
    )
    layout = Layout.padded(64, 64, length)
    sizes = {"layers": 1, "batch_size": batch, "ring_itemsize": 2, "filters_itemsize": 2}
    parts = state_parts(plan, layout, **sizes)
    rows = sum(parts[part] for part in ("ring", "open_block", "kept", "undo", "history", "images"))
    assert rows <= ROW_BYTES[2] * batch * 64 * length
    assert sum(parts[part] for part in ("filters", "taps", "spectra")) <= 3.1 * 64 * length


def test_what_a_state_of_16_bits_leaves_of_one_h200():
    plan = make_plan(65536, 4096, layers=24, device=DeviceInfo.named("h200"), memory="small")
    layout = Layout.padded(4096, 4096, 65536)
    sizes = {"layers": 24, "batch_size": 1, "ring_itemsize": 2, "filters_itemsize": 2}
    assert sum(state_parts(plan, layout, **sizes).values()) < 36e9


def test_an_endless_plan_makes_what_a_cache_of_one_makes():
    filters = torch.randn(4, 500)
    cache = FutureFillCache(filters, 1, None, memory="small", impl="reference")
    plan = make_plan(None, 4, filter_length=500, memory="small", impl="reference")
    assert plan.made_from == cache.plan.made_from is not None
