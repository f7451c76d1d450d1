"""Streams without a cache, and sums of their parts."""

from __future__ import annotations

import itertools

import pytest
import torch

import futurefill_kernels as ff
from bench.harness.parts import Parts
from bench.harness.streams import Stream


@pytest.mark.parametrize(
    ("sizes", "made"), [((8,), None), ((4, 12), None), ((4, 8, 16, 32), 16), ((128,), None)]
)
def test_outputs_of_a_stream(sizes, made):
    """Constant inputs, so that outputs are sums of taps; a second run is the same."""
    h, u = torch.randn(5, 100), torch.randn(2, 5)
    plan = ff.Plan(100, sizes, made_from=made)
    stream = Stream(plan, "reference", ["reference"] * len(plan.levels), h, 3, u)
    expected = u.double()[..., None] * h.double().cumsum(1)
    for at in (range(100), [0, 31, 99]):
        found = stream.outputs(at).double()
        assert torch.allclose(found, expected[..., list(at)], atol=1e-5)


def test_parts_are_summed_over_the_firings_of_a_plan():
    """Planted seconds, and the firings of a whole stream one by one."""
    length = 150
    plan = ff.Plan(length, (2, 4, 12, 60))
    parts = Parts(torch.zeros(1, length), 1, torch.zeros(1, 1), 1)
    parts._steps["a", 2] = 5.0
    for level in plan.levels:
        seconds = {n: level.block + 0.5**n for n in range(1, level.radix)}
        parts._firings["a", level.block, level.radix, False] = seconds
    total = 0.0
    for t in range(length):
        for index, _ in plan.work_at(t):
            level = plan.levels[index]
            total += level.block + 0.5 ** level.products((t + 1) // level.block)
    fills = ["a"] * len(plan.levels)
    assert parts.stream(plan, "a", fills) == pytest.approx(5.0 + total / length)


def test_firings_between_those_that_were_measured_lie_on_a_line():
    parts = Parts(torch.zeros(1, 1), 1, torch.zeros(1, 1), 1)
    parts._firings["a", 8, 8, False] = {1: 1.0, 3: 2.0, 7: 3.0}
    assert list(parts.firings("a", 8, 8, False)) == [1.0, 1.5, 2.0, 2.25, 2.5, 2.75, 3.0]


def test_parts_are_measured_once(monkeypatch):
    """On the CPU, by plain calls: a level of several products and a token's steps."""
    parts = Parts(torch.randn(4, 64), 2, torch.randn(1, 4), 1)
    seconds = [parts.steps("reference", 8), parts.level("reference", 64, 8, 8)]
    assert min(seconds) > 0
    monkeypatch.setattr(Parts, "_one_level", None)
    again = [parts.steps("reference", 8), parts.level("reference", 64, 8, 8)]
    assert again == seconds
    ((_, *_), found) = next(iter(parts._firings.items()))
    assert {1, 6, 7} <= set(found)
    assert all(b - a <= 2 for a, b in itertools.pairwise(sorted(found)))
