"""Situations that people report about software of this kind; docs/field_reports.md lists all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import futurefill_kernels as ff
from tests.decoding.models import make
from tests.oracles import relative_error

ROOT = Path(__file__).parents[1]


def direct(u, h):
    """Direct sums in float64. u: (B, D, T). h: (D, L)."""
    return ff.reference.causal_conv(u.double(), h.double())


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_a_freed_row_whose_request_was_nan(impl, objective):
    """The next request in it is clean, and the neighbours never saw anything."""
    h, u = torch.randn(4, 90) / 9, torch.randn(3, 4, 70)
    plan = ff.make_plan(60, 4, batch_size=3, objective=objective)
    cache = ff.FutureFillCache(h, 3, 60, plan=plan, impl=impl)
    expected = direct(u, h)
    cache.prefill(u[:2, :, :10], rows=[0, 1])
    cache.prefill(torch.full((1, 4, 10), torch.nan), rows=[2])
    for t in range(10, 35):
        now = torch.cat([u[:2, :, t], torch.full((1, 4), torch.nan)])
        assert relative_error(cache.step(now)[:2], expected[:2, :, t]) < 2e-6
    cache.reset([2])
    cache.prefill(u[2:, :, :10], rows=[2])
    for t in range(25):
        y = cache.step(torch.stack([u[0, :, 35 + t], u[1, :, 35 + t], u[2, :, 10 + t]]))
        right = torch.stack(
            [expected[0, :, 35 + t], expected[1, :, 35 + t], expected[2, :, 10 + t]]
        )
        assert relative_error(y, right) < 2e-6


def test_a_shared_prefix_with_ragged_ends(impl):
    """One prompt is read once and fanned out to four rows, which go on differently."""
    h, u = torch.randn(4, 90) / 9, torch.randn(4, 4, 70)
    u[:, :, :30] = u[0, :, :30]
    lengths = [20, 5, 11, 1]
    cache = ff.FutureFillCache(h, 4, 20, impl=impl)
    cache.prefill(u[:1, :, :30], rows=[0])
    cache.reorder([0, 0, 0, 0])
    expected = direct(u, h)
    y = cache.prefill(u[:, :, 30:50], lengths=lengths)
    for row, n in enumerate(lengths):
        assert relative_error(y[row, :, :n], expected[row, :, 30 : 30 + n]) < 2e-6
    for t in range(20):
        at = [30 + n + t for n in lengths]
        y = cache.step(torch.stack([u[row, :, n] for row, n in enumerate(at)]))
        right = torch.stack([expected[row, :, n] for row, n in enumerate(at)])
        assert relative_error(y, right) < 2e-6


@pytest.mark.parametrize("streamed", [False, True])
def test_single_taps_at_the_borders_of_blocks(streamed):
    """Nothing is dropped or counted twice: an impulse comes back once, at the tap's place."""
    length = 600
    taps = [0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 511, 512, 599]
    h = torch.zeros(len(taps), length)
    h[range(len(taps)), taps] = 1
    u = torch.randn(1, len(taps), length)
    expected = torch.zeros_like(u)
    for channel, tap in enumerate(taps):
        expected[0, channel, tap:] = u[0, channel, : length - tap]
    if streamed:
        cache = ff.FutureFillCache(h, 1, length, plan=ff.Plan(length, (32, 64, 128, 512)))
        y = torch.stack([cache.step(u[..., t]) for t in range(length)], -1)
    else:
        y = ff.causal_conv(u, h)
    assert (y - expected).abs().max() < 2e-6


@pytest.mark.parametrize(("inputs", "taps"), [(300_000, 7), (300_000, 300_000), (5, 300_000)])
def test_inputs_and_filters_of_any_length(inputs, taps):
    h, u = torch.randn(1, taps) / taps**0.5, torch.randn(1, 1, inputs)
    cache = ff.FutureFillCache(h, 1, 4)
    y = torch.cat([cache.prefill(u), cache.step(torch.zeros(1, 1))[..., None]], -1)
    ends = torch.nn.functional.pad(u, (taps, 1)).double()
    for t in (0, inputs // 2, inputs):
        right = (ends[0, 0, t + 1 : t + 1 + taps].flip(0) * h[0].double()).sum()
        assert abs(y[0, 0, t] - right) < 1e-5


def test_a_step_of_a_stereo_impulse_response_with_a_plan_for_latency():
    """Blocks of 64 samples, one step each, of a response that is longer than all of them."""
    h, u = torch.randn(2, 4800) / 70, torch.randn(1, 2, 3 * 64 * 8)
    plan = ff.make_plan(u.shape[2], 2, filter_length=4800, objective="latency")
    cache = ff.FutureFillCache(h, 1, u.shape[2], plan=plan)
    y = torch.stack([cache.step(u[..., t]) for t in range(u.shape[2])], -1)
    assert relative_error(y, direct(u, h)) < 2e-6


def test_deterministic_algorithms_and_a_filter_of_one_sign():
    """Torch then fills what is empty with NaN: nothing of it is read."""
    h, u = torch.rand(3, 200) / 200, torch.rand(2, 3, 200)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        cache = ff.FutureFillCache(h, 2, 150)
        y = torch.cat(
            [cache.prefill(u[..., :50])]
            + [cache.step(u[..., t])[..., None] for t in range(50, 200)],
            -1,
        )
    finally:
        torch.use_deterministic_algorithms(before)
    assert relative_error(y, direct(u, h)) < 2e-6


def test_several_threads_decode_with_one_model():
    """Each has a cache of its own; the model is shared."""
    model = make("language-model")
    prompts = [torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]]), torch.tensor([[6]])]
    alone = [ff.decode(model, prompt, 24) for prompt in prompts]
    found: dict[int, torch.Tensor] = {}

    def run(index):
        found[index] = ff.decode(model, prompts[index], 24)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], alone[index]) for index in range(3))


def test_without_a_home_folder():
    """Rates that were measured lie in a cache folder; none of it has to exist."""
    code = """
import torch, futurefill_kernels as ff
h, u = torch.randn(3, 40), torch.randn(1, 3, 40)
cache = ff.FutureFillCache(h, 1, 40)
y = torch.stack([cache.step(u[..., t]) for t in range(40)], -1)
assert torch.allclose(y, ff.causal_conv(u, h), atol=1e-4)
"""
    variables = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"}
    variables |= {"HOME": "/proc/1/nowhere", "FUTUREFILL_TUNING": "strict"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_float16_beyond_its_range_is_infinite_and_stays_in_its_outputs():
    """65504 is the largest number: outputs say inf, the state holds what was meant."""
    h = torch.tensor([[1.0, 2.0, 0.0, 0.0]]).half()
    u = torch.tensor([40000.0, 1.0, 1.0]).half()
    cache = ff.FutureFillCache(h, 1, 3)
    y = [float(cache.step(u[t].view(1, 1))) for t in range(3)]
    assert y == [40000.0, float("inf"), 3.0]


def test_every_test_that_the_page_names_is_there():
    page = (ROOT / "docs" / "field_reports.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 50
    missing = [f"{path}::{name}" for path, name in named if not _defines(ROOT / path, name)]
    assert missing == []


def _defines(path, name):
    return path.is_file() and f"def {name}(" in path.read_text()
