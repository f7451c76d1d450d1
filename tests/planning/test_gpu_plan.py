"""Plans for GPUs, on machines without one: choices as tables, memory, refusals."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from futurefill_kernels import DeviceInfo, Plan, make_plan
from futurefill_kernels.cli.plan_table import blocks_text
from futurefill_kernels.planning.gpu_cost import GpuCost
from futurefill_kernels.planning.gpu_plan import cheapest_plan, leanest_plan
from futurefill_kernels.planning.memory import MEMORY_SHARE, needed_nbytes, usable_bytes
from futurefill_kernels.planning.workload import Workload


@pytest.mark.parametrize(
    ("device", "length", "channels", "batch_size", "layers", "blocks"),
    [
        ("h100", 2048, 1024, 1, 24, "16 .. 1024"),
        ("h100", 65536, 1024, 1, 24, "16 .. 1024, 4096, 8192, 32768"),
        ("h100", 65536, 1024, 1, 1, "128 .. 1024, 4096, 8192, 32768"),
        ("h100", 65536, 4096, 8, 1, "32 .. 1024, 4096, 32768"),
        ("a100", 65536, 1024, 1, 24, "16 .. 1024, 4096, 32768"),
        ("a100", 2048, 4096, 8, 24, "8 .. 128, 512, 1024"),
        ("b200", 65536, 4096, 1, 24, "16 .. 1024, 4096, 32768"),
        ("b200", 1 << 20, 4096, 1, 1, "64 .. 1024, 4096, 32768 .. 524288"),
        ("h200", 32, 64, 1, 1, "32"),
    ],
)
def test_choices(device, length, channels, batch_size, layers, blocks):
    plan = make_plan(
        length, channels, batch_size=batch_size, layers=layers, device=DeviceInfo.named(device)
    )
    assert blocks_text(plan.block_sizes) == blocks


@pytest.mark.parametrize("device", DeviceInfo.names())
def test_the_choice_beats_the_papers_plans(device):
    info = DeviceInfo.named(device)
    workload = Workload(65536, 65536, 1024, 1, 4, 1024)
    chosen = GpuCost(workload, info).plan(cheapest_plan(workload, info))
    others = [Plan.epoched(65536, 1 << k) for k in range(4, 15)]
    others += [Plan.continuous(65536, 1 << k) for k in range(4, 10)]
    assert all(chosen <= GpuCost(workload, info).plan(plan) for plan in others)


def test_refusal_names_bytes_and_what_fits():
    info = DeviceInfo.named("l4")
    with pytest.raises(ValueError, match="needs at least") as caught:
        make_plan(1 << 18, 4096, batch_size=2, layers=2, device=info)
    message = str(caught.value)
    workload = Workload(1 << 18, 1 << 18, 4096, 2, 2, 4096)
    leanest = leanest_plan(workload, info)
    assert f"{needed_nbytes(workload, leanest)} bytes" in message
    assert str(info.memory_bytes) in message
    assert "any block sizes" in message
    length, nbytes = map(int, re.findall(r" length = (\d+) \((\d+) bytes\)", message)[0])
    fitting = Workload(length, length, 4096, 2, 2, 4096)
    assert nbytes == needed_nbytes(fitting, leanest_plan(fitting, info))
    make_plan(length, 4096, batch_size=2, layers=2, device=info)
    with pytest.raises(ValueError, match="needs at least"):
        make_plan(2 * length, 4096, batch_size=2, layers=2, device=info)


def test_grouped_filters_are_proposed_and_fit():
    info = DeviceInfo.named("h100")
    with pytest.raises(ValueError, match=r"groups \(filter rows that channels share\) = 4176"):
        make_plan(1 << 20, 8352, device=info)
    plan = make_plan(1 << 20, 8352, groups=4176, device=info)
    workload = Workload(1 << 20, 1 << 20, 8352, 1, 1, 4176)
    assert needed_nbytes(workload, plan) <= MEMORY_SHARE * info.memory_bytes


def test_bfloat16_spectra_are_proposed_and_fit():
    info = DeviceInfo.named("h100")
    with pytest.raises(ValueError, match="needs at least") as caught:
        make_plan(1 << 20, 8352, device=info)
    ((nbytes, impl),) = re.findall(
        r"fits: spectra_dtype = torch.bfloat16 \((\d+) bytes, impl='(\w+)'\)", str(caught.value)
    )
    plan = make_plan(1 << 20, 8352, device=info, impl=impl, spectra_dtype=torch.bfloat16)
    workload = Workload(1 << 20, 1 << 20, 8352, 1, 1, 8352, spectra_itemsize=2)
    least = needed_nbytes(workload, leanest_plan(workload, info))
    assert int(nbytes) == least <= needed_nbytes(workload, plan)
    assert needed_nbytes(workload, plan) <= usable_bytes(info)
    with pytest.raises(ValueError, match="needs at least") as caught:
        make_plan(1 << 22, 8352, device=info, spectra_dtype=torch.bfloat16)
    assert "spectra_dtype" not in str(caught.value)


@pytest.mark.parametrize("state", [None, torch.float16])
def test_16_bits_are_proposed_and_fit(state):
    info = DeviceInfo.named("h100")
    sizes = {"layers": 24, "device": info, "state_dtype": state}
    with pytest.raises(ValueError, match="needs at least") as caught:
        make_plan(131072, 4096, **sizes)
    found = dict(
        re.findall(r"([a-z_= ]*dtype) = torch\.bfloat16 \((\d+) bytes\)", str(caught.value))
    )
    names = {name.strip(): int(nbytes) for name, nbytes in found.items()}
    both = "state_dtype = filters_dtype" if state is None else "filters_dtype"
    assert set(names) == {both}
    plan = make_plan(
        131072, 4096, **sizes | {"state_dtype": torch.bfloat16}, filters_dtype=torch.bfloat16
    )
    workload = Workload(131072, 131072, 4096, 1, 24, 4096, ring_itemsize=2, filters_itemsize=2)
    assert names[both] == needed_nbytes(workload, leanest_plan(workload, info))
    assert names[both] <= needed_nbytes(workload, plan) <= usable_bytes(info)
    with pytest.raises(ValueError, match="needs at least") as caught:
        make_plan(131072, 4096, **sizes | {"dtype": torch.float64, "state_dtype": None})
    assert "state_dtype" not in str(caught.value)


def test_blocks_of_one_launch_differ_between_implementations():
    """cuda goes to 8192 in one launch, triton to 4096, both in three passes from there; auto has
    both.
    """
    info = DeviceInfo.named("h100")
    plans = {
        impl: make_plan(65536, 1024, layers=24, device=info, impl=impl)
        for impl in ("auto", "triton", "cuda")
    }
    assert blocks_text(plans["triton"].block_sizes) == "16 .. 2048, 16384, 32768"
    assert blocks_text(plans["cuda"].block_sizes) == "32 .. 256, 1024, 4096, 8192, 32768"
    assert blocks_text(plans["auto"].block_sizes) == "16 .. 1024, 4096, 8192, 32768"


def test_a_tight_memory_costs_time_before_it_refuses():
    """With many rows the fastest plan keeps input spectra; with less memory another is taken."""
    info = DeviceInfo.named("h100")
    workload = Workload(1 << 17, 1 << 17, 512, 4, 1, 512)
    fastest = cheapest_plan(workload, info)
    leanest = leanest_plan(workload, info)
    most, least = (needed_nbytes(workload, plan) for plan in (fastest, leanest))
    assert least < most
    tight = replace(info, memory_bytes=int(least / MEMORY_SHARE) + 2)
    found = cheapest_plan(workload, tight)
    assert needed_nbytes(workload, found) < most
    assert GpuCost(workload, info).plan(fastest) < GpuCost(workload, info).plan(found)


@pytest.mark.parametrize(
    ("device", "length", "layers", "blocks", "slack_from"),
    [
        ("h100", 65536, 24, "16 .. 128, 512, 2048, 8192", 512),
        ("l4", 65536, 4, "16 .. 64, 256, 1024, 4096", 256),
        ("h100", 1 << 20, 1, "16 .. 2048, 8192, 32768", 8192),
        ("a100", 2048, 1, "16 .. 1024", None),
    ],
)
def test_latency_plans(device, length, layers, blocks, slack_from):
    """No fill that is due at once takes longer than 0.1 ms; above it there is slack."""
    info = DeviceInfo.named(device)
    plan = make_plan(length, 1024, layers=layers, device=info, objective="latency")
    assert (blocks_text(plan.block_sizes), plan.slack_from) == (blocks, slack_from)


def test_a_latency_plan_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"a plan without slow steps needs \d+ bytes, of l4"):
        make_plan(1 << 20, 4096, device=DeviceInfo.named("l4"), objective="latency")
