"""Plans for GPUs, on machines without one: bytes as counted, choices as tables, refusals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from futurefill_kernels import DeviceInfo, Plan, make_plan
from futurefill_kernels.__main__ import main
from futurefill_kernels.cli.plan_table import blocks_text
from futurefill_kernels.planning import gpu_cost
from futurefill_kernels.planning.capabilities import largest_fused, on_gpus
from futurefill_kernels.planning.search import Stream, level_firings
from futurefill_kernels.state.layout import Layout
from futurefill_kernels.state.spectra import tiled_spectra
from futurefill_kernels.state.tensors import allocate

PAGE = Path(__file__).parents[2] / "docs" / "planner.md"


@given(st.integers(2, 5000), st.integers(1, 5000), st.integers(0, 6), st.lists(st.integers(1, 3)))
def test_firings_agree_with_the_plan(length, taps, first, steps):
    sizes = [1 << first]
    for step in steps[:4]:
        sizes.append(sizes[-1] << step)
    plan = Plan(length, tuple(sizes), taps)
    stream = Stream(length, plan.filter_length, 8, 1, 1, 8)
    for level in plan.levels:
        firings, products, _ = plan._level_work(level)
        pairs = level_firings(stream, level.block, level.radix)
        assert sum(count for _, count in pairs) == firings
        assert sum(i * count for i, count in pairs) == pytest.approx(products)
        assert all(i <= level.n_spectra for i, _ in pairs)


@pytest.mark.parametrize(("radix", "moved"), [(2, 10), (4, 31), (16, 131), (64, 516)])
def test_bytes_of_a_level(radix, moved):
    """Inputs 4, pending 8, spectra 8 each, the newest input spectrum stored while it is needed."""
    stream = Stream(64 * radix, 64 * radix, 32, 1, 1, 32)
    total = gpu_cost.token_bytes(stream, Plan(64 * radix, (64,)))
    assert total == pytest.approx(moved, abs=2)


def test_rows_share_filter_spectra():
    one = gpu_cost.fill_bytes(Stream(4096, 4096, 64, 1, 3, 64), 256, 1, False)
    eight = gpu_cost.fill_bytes(Stream(4096, 4096, 64, 8, 3, 64), 256, 1, False)
    shared = gpu_cost.fill_bytes(Stream(4096, 4096, 64, 8, 3, 1), 256, 1, False)
    assert one == 3 * 64 * 256 * 20
    assert eight == 3 * 64 * 256 * (8 * 12 + 8)
    assert shared == 3 * 256 * (8 * 64 * 12 + 8)


@pytest.mark.parametrize(
    ("device", "length", "channels", "batch_size", "layers", "blocks"),
    [
        ("h100", 2048, 1024, 1, 24, "16 .. 1024"),
        ("h100", 65536, 1024, 1, 24, "16 .. 2048, 16384"),
        ("h100", 65536, 1024, 1, 1, "128 .. 2048, 16384"),
        ("h100", 65536, 4096, 8, 1, "32 .. 2048, 16384"),
        ("a100", 65536, 1024, 1, 24, "16 .. 2048, 16384"),
        ("a100", 2048, 4096, 8, 24, "8 .. 1024"),
        ("b200", 65536, 4096, 1, 24, "16 .. 2048, 16384"),
        ("b200", 1 << 20, 4096, 1, 1, "64 .. 2048, 16384, 131072"),
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
    stream = Stream(65536, 65536, 1024, 1, 4, 1024)
    chosen = gpu_cost.plan_seconds(stream, info, gpu_cost.cheapest_plan(stream, info))
    others = [Plan.epoched(65536, 1 << k) for k in range(4, 15)]
    others += [Plan.continuous(65536, 1 << k) for k in range(4, 10)]
    assert all(chosen <= gpu_cost.plan_seconds(stream, info, plan) for plan in others)


@pytest.mark.parametrize(
    ("groups", "batch", "spectra"),
    [(40, 1, torch.float32), (8, 3, torch.float32), (40, 1, torch.bfloat16)],
)
def test_needed_bytes_are_those_of_a_cache(groups, batch, spectra):
    plan = Plan(500, (16, 64, 128))
    stream = Stream(500, 500, 40, batch, 2, groups, spectra_itemsize=spectra.itemsize)
    filters = [torch.randn(groups, 500) for _ in range(2)]
    layout = Layout.padded(40, groups, plan.length)
    state = allocate(plan, layout, tiled_spectra, filters, batch, None, spectra)
    expected = state.nbytes + sum(h.nbytes for h in filters)
    assert gpu_cost.needed_nbytes(stream, plan) == expected


def test_refusal_names_bytes_and_what_fits():
    info = DeviceInfo.named("l4")
    with pytest.raises(ValueError, match="needs at least") as caught:
        make_plan(1 << 18, 4096, batch_size=2, layers=2, device=info)
    message = str(caught.value)
    stream = Stream(1 << 18, 1 << 18, 4096, 2, 2, 4096)
    leanest = gpu_cost.leanest_plan(stream, info)
    assert f"{gpu_cost.needed_nbytes(stream, leanest)} bytes" in message
    assert str(info.memory_bytes) in message
    assert "any block sizes" in message
    length, nbytes = map(int, re.findall(r" length = (\d+) \((\d+) bytes\)", message)[0])
    fitting = Stream(length, length, 4096, 2, 2, 4096)
    assert nbytes == gpu_cost.needed_nbytes(fitting, gpu_cost.leanest_plan(fitting, info))
    make_plan(length, 4096, batch_size=2, layers=2, device=info)
    with pytest.raises(ValueError, match="needs at least"):
        make_plan(2 * length, 4096, batch_size=2, layers=2, device=info)


def test_grouped_filters_are_proposed_and_fit():
    info = DeviceInfo.named("h100")
    with pytest.raises(ValueError, match=r"groups \(filter rows that channels share\) = 2048"):
        make_plan(1 << 20, 4096, device=info)
    plan = make_plan(1 << 20, 4096, groups=2048, device=info)
    stream = Stream(1 << 20, 1 << 20, 4096, 1, 1, 2048)
    assert gpu_cost.needed_nbytes(stream, plan) <= gpu_cost.MEMORY_SHARE * info.memory_bytes


def test_bfloat16_spectra_are_proposed_and_fit():
    info = DeviceInfo.named("h100")
    with pytest.raises(ValueError, match="needs at least") as caught:
        make_plan(1 << 20, 4096, device=info)
    ((nbytes, impl),) = re.findall(
        r"fits: spectra_dtype = torch.bfloat16 \((\d+) bytes, impl='(\w+)'\)", str(caught.value)
    )
    plan = make_plan(1 << 20, 4096, device=info, impl=impl, spectra_dtype=torch.bfloat16)
    stream = Stream(1 << 20, 1 << 20, 4096, 1, 1, 4096, spectra_itemsize=2)
    least = gpu_cost.needed_nbytes(stream, gpu_cost.leanest_plan(stream, info))
    assert int(nbytes) == least <= gpu_cost.needed_nbytes(stream, plan)
    assert gpu_cost.needed_nbytes(stream, plan) <= gpu_cost.usable_bytes(info)
    with pytest.raises(ValueError, match="needs at least") as caught:
        make_plan(1 << 22, 4096, device=info, spectra_dtype=torch.bfloat16)
    assert "spectra_dtype" not in str(caught.value)


def test_bytes_of_bfloat16_spectra():
    full, half = (Stream(4096, 4096, 64, 1, 3, 64, spectra_itemsize=size) for size in (4, 2))
    assert gpu_cost.fill_bytes(full, 256, 1, False) == 3 * 64 * 256 * 20
    assert gpu_cost.fill_bytes(half, 256, 1, False) == 3 * 64 * 256 * 16


def test_blocks_of_one_launch_differ_between_implementations():
    """cuda keeps radix 2 up to 8192, where triton and auto price cuFFT's launches."""
    info = DeviceInfo.named("h100")
    plans = {
        impl: make_plan(65536, 1024, layers=24, device=info, impl=impl)
        for impl in ("auto", "triton", "cuda")
    }
    assert plans["auto"] == plans["triton"]
    assert blocks_text(plans["triton"].block_sizes) == "16 .. 2048, 16384"
    assert 8192 in plans["cuda"].block_sizes
    for impl in on_gpus():
        largest = largest_fused(impl)
        stream = Stream(65536, 65536, 1024, 1, 24, 1024, largest_fused=largest)
        below, above = (
            gpu_cost.fill_seconds(stream, info, block, 1, False) for block in (largest, 2 * largest)
        )
        moved = gpu_cost.fill_bytes(stream, 2 * largest, 1, False)
        assert above - below > 23 * gpu_cost.FFT_LAUNCHES * info.launch_seconds, impl
        assert above > moved / info.dram_bytes_per_second


def test_a_tight_memory_costs_time_before_it_refuses():
    """With many rows the fastest plan keeps input spectra; with less memory another is taken."""
    from dataclasses import replace

    info = DeviceInfo.named("h100")
    stream = Stream(1 << 17, 1 << 17, 512, 4, 1, 512)
    fastest = gpu_cost.cheapest_plan(stream, info)
    leanest = gpu_cost.leanest_plan(stream, info)
    most, least = (gpu_cost.needed_nbytes(stream, plan) for plan in (fastest, leanest))
    assert least < most
    tight = replace(info, memory_bytes=int(least / gpu_cost.MEMORY_SHARE) + 2)
    found = gpu_cost.cheapest_plan(stream, tight)
    assert gpu_cost.needed_nbytes(stream, found) < most
    assert gpu_cost.plan_seconds(stream, info, fastest) < gpu_cost.plan_seconds(stream, info, found)


def test_the_page_is_what_the_command_prints(capsys):
    assert main(["plan", "--device", "all", "--table"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()


def test_all_devices_need_the_table(capsys):
    assert main(["plan", "--device", "all"]) == 2
    assert "--device all needs --table" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "length", "layers", "blocks", "slack_from"),
    [
        ("h100", 65536, 24, "16 .. 256, 1024, 4096", 1024),
        ("l4", 65536, 4, "16 .. 128, 512, 2048", 512),
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
