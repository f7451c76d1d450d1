"""Calls of a stream that has no end: what is called, and the parts of its message."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from tests.bad_calls.refusals import bytes_of, expect_refusal, expect_same_bytes
from tests.bad_calls.streams import B, D, saved, taps, token

ENDLESS = {
    "step: channels": (lambda c: c.step(token(B, D + 1)), "u_t", "(3, 4)", "(3, 5)"),
    "run: channels": (lambda c: c.run(token(B, 3, 2)), "u", "(3, 4, 2)", "(3, 3, 2)"),
    "run: empty": (lambda c: c.run(token(B, D, 0)), "u", "P >= 1", "(3, 4, 0)"),
    "prefill: lengths": (
        lambda c: c.prefill(token(B, D, 2), lengths=[1, 2, 3]), "lengths", "1 .. 2", "[1, 2, 3]",
    ),
    "crop: too far": (lambda c: c.crop(1000), "length", "row 0", "rollback = 3", "got 1000"),
    "crop: over a leap": (
        lambda c: c.crop([1061, 1060, 1055]), "length", ">= 1057", "row 2", "got 1055",
    ),
    "load: positions": (
        lambda c: c.load_state_dict(saved(c, positions=torch.tensor([0, -7, 21]))),
        "positions", "0 ..", "-7",
    ),
    "load: inputs": (
        lambda c: c.load_state_dict(saved(c, inputs=token(2, B, D, 3))),
        "inputs", "(2, 3, 4, 24)", "(2, 3, 4, 3)",
    ),
    "load: another plan": (
        lambda c: c.load_state_dict(saved(c, plan=torch.tensor([0, 0, 4, 16]))),
        "plan", "[0, 0, 4, 8]", "[0, 0, 4, 16]",
    ),
    "load: a stream that ends": (
        lambda c: c.load_state_dict(saved(c, plan=torch.tensor([1100, 0, 4, 8]))),
        "plan", "0: endless", "[1100, 0, 4, 8]",
    ),
    "filters: longer": (
        lambda c: c.set_filters([taps(2, 10)] * 2), "9 taps", "longest filters", "got 10",
    ),
    "filters: on meta": (
        lambda c: c.set_filters([taps(2, 9).to("meta")] * 2), "filters[0]", "values", "meta",
    ),
}  # fmt: skip


def endless_cache():
    """Rows at 1061, 1060 and 1060 positions, over a leap."""
    g = torch.Generator().manual_seed(0)
    h = [torch.randn(2, 9, generator=g) / 3 for _ in range(2)]
    cache = ff.FutureFillCache(h, B, None, channels=D, plan=ff.Plan(None, (4, 8), 9), rollback=3)
    for layer in range(2):
        cache.run(torch.randn(B, D, 1060, generator=g), layer)
    for layer in range(2):
        cache.step(torch.randn(1, D, generator=g), layer, rows=[0])
    cache.launch_fills()
    return cache


@pytest.mark.parametrize("case", ENDLESS)
def test_a_refused_call_of_an_endless_stream(case):
    call, *parts = ENDLESS[case]
    cache = endless_cache()
    untouched = cache.clone()
    before = bytes_of(cache)
    expect_refusal(call, cache, parts)
    expect_same_bytes(before, bytes_of(cache))
    for _ in range(9):
        u = torch.randn(B, D)
        for layer in range(2):
            assert torch.equal(cache.step(u, layer), untouched.step(u, layer))
