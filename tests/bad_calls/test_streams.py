"""Calls of a stream: what is called, and the parts of its message."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import futurefill_kernels as ff
from tests.bad_calls.refusals import bytes_of, expect_refusal, expect_same_bytes, refusal
from tests.bad_calls.streams import B, D, N, saved, taps, token, without


def step_into_inputs(cache):
    """Outputs would be written over inputs that are still to be read."""
    x = token(B * D + 1)
    cache.step(x[:-1].view(B, D), out=x[1:].view(B, D))


def cache_under_way():
    """Row 0 in its prompt, row 1 in the stream, row 2 at its end."""
    g = torch.Generator().manual_seed(0)
    h = [torch.randn(2, 30, generator=g) / 5 for _ in range(2)]
    cache = ff.FutureFillCache(h, B, N, channels=D, plan=ff.Plan(N, (2, 4)))
    cache.prefill(torch.randn(B, D, 5, generator=g), 0)
    cache.prefill(torch.randn(B, D, 5, generator=g), 1)
    for t in range(N):
        rows = [1, 2] if t < 7 else [2]
        for layer in range(2):
            cache.step(torch.randn(len(rows), D, generator=g), layer, rows=rows)
    cache.launch_fills()
    return cache


STREAM = {
    "step: no tensor": (lambda c: c.step(None), "u_t", "tensor", "NoneType"),
    "step: numpy": (lambda c: c.step(np.zeros((B, D), np.float32)), "u_t", "tensor", "ndarray"),
    "step: channels": (lambda c: c.step(token(B, D + 1)), "u_t", "(3, 4)", "(3, 5)"),
    "step: time": (lambda c: c.step(token(B, D, 1)), "u_t", "(3, 4)", "(3, 4, 1)"),
    "step: dtype": (lambda c: c.step(token(dtype=torch.float64)), "u_t", "float32", "float64"),
    "step: device": (lambda c: c.step(token().to("meta")), "u_t", "cpu", "meta"),
    "step: grad": (lambda c: c.step(token().requires_grad_()), "u_t", "autograd"),
    "step: pre": (lambda c: c.step(token(), pre=token(1, D)), "pre", "(3, 4)", "(1, 4)"),
    "step: pre is no tensor": (lambda c: c.step(token(), pre=2.0), "pre", "tensor", "float"),
    "step: post": (lambda c: c.step(token(), post=token(B, 1)), "post", "(3, 4)", "(3, 1)"),
    "step: out": (lambda c: c.step(token(), out=token(B, 2)), "out", "(3, 4)", "(3, 2)"),
    "step: out dtype": (
        lambda c: c.step(token(), out=token(dtype=torch.bfloat16)), "out", "float32", "bfloat16",
    ),
    "step: out strides": (
        lambda c: c.step(token(), out=token(D, B).T), "out", "contiguous", "(1, 3)",
    ),
    "step: out is no tensor": (lambda c: c.step(token(), out=[0]), "out", "tensor", "list"),
    "step: layer too early": (lambda c: c.step(token(), 1), "layer 0", "got 1"),
    "step: half a layer": (lambda c: c.step(token(), 0.0), "layer to be an integer", "0.0"),
    "step: no such layer": (lambda c: c.step(token(), 2), "layer 0", "of 2", "got 2"),
    "step: row out of range": (lambda c: c.step(token(1, D), rows=[3]), "rows", "-1 .. 2", "[3]"),
    "step: row twice": (lambda c: c.step(token(2, D), rows=[1, 1]), "row", "once", "[1, 1]"),
    "step: no rows": (lambda c: c.step(token(0, D), rows=[]), "rows", "-1 .. 2", "[]"),
    "step: rows are no integers": (
        lambda c: c.step(token(1, D), rows=[0.7]), "rows", "integers", "[0.7]",
    ),
    "step: rows are a mask": (
        lambda c: c.step(token(1, D), rows=torch.tensor([True])), "rows", "integers", "True",
    ),
    "step: rows are a number": (lambda c: c.step(token(1, D), rows=1), "rows", "sequence", "1"),
    "step: more rows than inputs": (
        lambda c: c.step(token(1, D), rows=[0, 1]), "u_t", "(2, 4)", "(1, 4)",
    ),
    "step: no room": (lambda c: c.step(token()), "no room", "max_new_tokens = 20"),
    "step: no room in a row": (
        lambda c: c.step(token(2, D), rows=[0, 2]), "no room", "max_new_tokens = 20",
    ),
    "prefill: no tensor": (lambda c: c.prefill(None), "u", "tensor", "NoneType"),
    "prefill: a token": (lambda c: c.prefill(token()), "u", "(B, D, P)", "(3, 4)"),
    "prefill: empty": (lambda c: c.prefill(token(B, D, 0)), "u", "P >= 1", "(3, 4, 0)"),
    "prefill: channels": (lambda c: c.prefill(token(B, 3, 2)), "u", "(3, 4, 2)", "(3, 3, 2)"),
    "prefill: dtype": (
        lambda c: c.prefill(token(B, D, 2, dtype=torch.float16)), "u", "float32", "float16",
    ),
    "prefill: pre": (
        lambda c: c.prefill(token(B, D, 2), pre=token(B, D, 3)), "pre", "(3, 4, 2)", "(3, 4, 3)",
    ),
    "prefill: post is no tensor": (
        lambda c: c.prefill(token(B, D, 2), post="yes"), "post", "tensor", "str",
    ),
    "prefill: row out of range": (
        lambda c: c.prefill(token(1, D, 2), rows=[-1]), "rows", "0 .. 2", "[-1]",
    ),
    "prefill: lengths": (
        lambda c: c.prefill(token(B, D, 2), lengths=[1, 2, 3]), "lengths", "1 .. 2", "[1, 2, 3]",
    ),
    "prefill: length of nothing": (
        lambda c: c.prefill(token(B, D, 2), lengths=[0, 1, 1]), "lengths", "1 .. 2", "[0, 1, 1]",
    ),
    "prefill: lengths of other rows": (
        lambda c: c.prefill(token(B, D, 2), lengths=[1, 1]), "lengths", "(3,)", "[1, 1]",
    ),
    "prefill: lengths are no integers": (
        lambda c: c.prefill(token(B, D, 2), lengths=[1.5, 1, 1]), "lengths", "integers", "1.5",
    ),
    "prefill: a layer that is none": (
        lambda c: c.prefill(token(B, D, 2), False), "layer to be an integer", "False",
    ),
    "prefill: layer too early": (lambda c: c.prefill(token(B, D, 2), 1), "layer 0", "got 1"),
    "prefill: no room": (
        lambda c: c.prefill(token(1, D, 14), rows=[1]),
        "at most 13", "row 1", "max_new_tokens = 20", "got 14",
    ),
    "reset: row out of range": (lambda c: c.reset([0, 3]), "rows", "0 .. 2", "[0, 3]"),
    "reset: rows are no integers": (lambda c: c.reset("all"), "rows", "integers", "'all'"),
    "reorder: other rows": (lambda c: c.reorder([0, 1]), "rows", "(3,)", "(2,)"),
    "reorder: row out of range": (lambda c: c.reorder([0, 1, 3]), "rows", "0 .. 2", "[0, 1, 3]"),
    "crop: negative": (lambda c: c.crop(-1), "length", ">= 0", "-1"),
    "crop: lengths of other rows": (lambda c: c.crop([1, 1]), "length", "(3,)", "[1, 1]"),
    "crop: no integer": (lambda c: c.crop(1.5), "length", "integer", "1.5"),
    "crop: a truth": (lambda c: c.crop(True), "length", "integer", "True"),
    "crop: no integers": (lambda c: c.crop([1, 1, 0.5]), "length", "integers", "0.5"),
    "load: no state": (lambda c: c.load_state_dict(None), "state", "state_dict", "NoneType"),
    "load: empty": (lambda c: c.load_state_dict({}), "keys", "fingerprint", "[]"),
    "load: a key too few": (lambda c: c.load_state_dict(without(c, "inputs")), "keys", "'inputs'"),
    "load: a key too many": (lambda c: c.load_state_dict(saved(c, more=token())), "keys", "more"),
    "load: no tensor": (
        lambda c: c.load_state_dict(saved(c, inputs=None)), "inputs", "tensor", "NoneType",
    ),
    "load: other rows": (
        lambda c: c.load_state_dict(saved(c, positions=torch.zeros(2, dtype=torch.int64))),
        "positions", "(3,)", "(2,)",
    ),
    "load: positions": (
        lambda c: c.load_state_dict(saved(c, positions=torch.tensor([0, 7, 21]))),
        "positions", "0 .. 20", "21",
    ),
    "load: inputs": (
        lambda c: c.load_state_dict(saved(c, inputs=token(2, B, D, 3))),
        "inputs", "(2, 3, 4, 20)", "(2, 3, 4, 3)",
    ),
    "load: dtype": (
        lambda c: c.load_state_dict(saved(c, inputs=c.state_dict()["inputs"].double())),
        "inputs", "float32", "float64",
    ),
    "load: filters": (
        lambda c: c.load_state_dict(saved(c, fingerprint=2 * c.state_dict()["fingerprint"])),
        "same filters", "filters of layer 0",
    ),
    "filters: none": (lambda c: c.set_filters([]), "filters", "non-empty"),
    "filters: no tensors": (lambda c: c.set_filters(2.0), "filters", "float"),
    "filters: numpy": (lambda c: c.set_filters([taps().numpy()] * 2), "filters[0]", "ndarray"),
    "filters: one layer": (lambda c: c.set_filters(taps()), "2 layers", "got 1"),
    "filters: other rows": (lambda c: c.set_filters([taps(4)] * 2), "G = 2", "of 4"),
    "filters: rows that fit nothing": (lambda c: c.set_filters([taps(3)] * 2), "G = 3", "got 4"),
    "filters: unlike rows": (
        lambda c: c.set_filters([taps(), taps(1)]), "filters[1]", "G = 2", "got 1",
    ),
    "filters: of 1 dimension": (lambda c: c.set_filters([taps()[0]] * 2), "filters[0]", "(30,)"),
    "filters: empty": (lambda c: c.set_filters([taps(2, 0)] * 2), "filters[0]", "(2, 0)"),
    "filters: of integers": (
        lambda c: c.set_filters([taps().long()] * 2), "filters[0]", "float32", "int64",
    ),
    "filters: complex": (
        lambda c: c.set_filters([taps().to(torch.complex64)] * 2), "filters[0]", "complex64",
    ),
    "filters: NaN": (lambda c: c.set_filters([taps() / 0 * 0] * 2), "filters[0]", "finite"),
    "filters: grad": (
        lambda c: c.set_filters([taps(), taps().requires_grad_()]), "filters[1]", "grad",
    ),
    "filters: meta": (
        lambda c: c.set_filters([taps(), taps().to("meta")]), "filters[1]", "values", "meta",
    ),
    "filters: skip": (
        lambda c: c.set_filters([taps()] * 2, torch.ones(3)), "skip", "(4,)", "(2, 4)", "(3,)",
    ),
    "filters: skip is no tensor": (
        lambda c: c.set_filters([taps()] * 2, 1.0), "skip", "tensor", "float",
    ),
    "filters: skip with grad": (
        lambda c: c.set_filters([taps()] * 2, torch.ones(4).requires_grad_()), "skip", "grad",
    ),
    "filters: skip on meta": (
        lambda c: c.set_filters([taps()] * 2, torch.ones(4).to("meta")), "skip", "values", "meta",
    ),
    "filters: a prompt's inputs are gone": (
        lambda c: c.set_filters([taps()] * 2), "30 taps", "row 1", "7 positions",
    ),
    "run: half a layer": (lambda c: c.run(token(B, D, 2), 0.0), "layer to be an integer", "0.0"),
    "run: layer too early": (lambda c: c.run(token(B, D, 2), 1), "layer 0", "got 1"),
    "run: no room": (lambda c: c.run(token(B, D, 2)), "at most 0", "row 2", "got 2"),
    "generate: two layers": (lambda c: c.generate(token(), 2), "one layer", "got 2"),
    "widen": (lambda c: c.widen(torch.float64), "no wider", "float32", "float64"),
    "widen: no input's": (lambda c: c.widen(torch.int64), "dtype", "float32", "int64"),
    "step: out overlaps": (lambda c: step_into_inputs(c), "out", "apart", "overlap"),
    "step: out is negated": (
        lambda c: c.step(token(1, D), rows=[1], out=torch._neg_view(token(1, D))), "out", "neg",
    ),
    "load: shape of the fingerprint": (
        lambda c: c.load_state_dict(saved(c, fingerprint=torch.zeros(1, 6))),
        "fingerprint", "(2, 6)", "(1, 6)",
    ),
    "load: a prompt of other channels": (
        lambda c: c.load_state_dict(saved(c, **{"open_prompt.0": token(2, 3, 5)})),
        "open_prompt.0", "(2, 4, P)", "(2, 3, 5)",
    ),
    "load: dtype of a prompt": (
        lambda c: c.load_state_dict(saved(c, **{"open_prompt.0": token(2, D, 5).double()})),
        "open_prompt.0", "float32", "float64",
    ),
    "load: mapping of something else": (
        lambda c: c.load_state_dict(saved(c, in_prompt=torch.zeros(3))), "in_prompt", "bool",
    ),
    "capture: outside a token": (lambda c: c.capture().__enter__(), "begin_token", "capture"),
}  # fmt: skip


@pytest.mark.parametrize("case", STREAM)
def test_a_refused_call_of_a_stream(case):
    call, *parts = STREAM[case]
    cache = cache_under_way()
    untouched = cache.clone()
    before = bytes_of(cache)
    expect_refusal(call, cache, parts)
    expect_same_bytes(before, bytes_of(cache))
    for c in (cache, untouched):
        c.reset([2])
    for _ in range(3):
        u = torch.randn(B, D)
        for layer in range(2):
            assert torch.equal(cache.step(u, layer), untouched.step(u, layer))


INSIDE = {
    "other rows": (lambda c: c.step(token(1, D), 1, rows=[2]), "rows of layer 0", "[2]"),
    "a layer twice": (lambda c: c.step(token(2, D), 2, rows=[0, 1]), "expected layer 1", "got 2"),
    "bad inputs": (lambda c: c.step(token(2, 1), 1, rows=[0, 1]), "u_t", "(2, 4)", "(2, 1)"),
    "prefill": (lambda c: c.prefill(token(2, D, 1), 1, rows=[0, 1]), "rows and lengths", "layer 1"),
    "reset": (lambda c: c.reset([0]), "reset", "layer 1 is next"),
    "clone": (lambda c: c.clone(), "clone", "layer 1 is next"),
    "reorder": (lambda c: c.reorder([0, 1, 2]), "reorder", "layer 1 is next"),
    "crop": (lambda c: c.crop(0), "crop", "layer 1 is next"),
    "state_dict": (lambda c: c.state_dict(), "state_dict", "layer 1 is next"),
    "load": (lambda c: c.load_state_dict({}), "keys"),
    "set_filters": (lambda c: c.set_filters([taps()] * 2), "set_filters", "layer 1 is next"),
    "sum_history": (lambda c: c.sum_history(), "sum_history", "layer 1 is next"),
}


@pytest.mark.parametrize("case", INSIDE)
def test_a_refused_call_inside_a_token(case):
    """Layer 1 goes on as if nothing had been asked."""
    call, *parts = INSIDE[case]
    cache = cache_under_way()
    untouched = cache.clone()
    u = torch.randn(2, D)
    for c in (cache, untouched):
        c.step(u, 0, rows=[0, 1])
    before = bytes_of(cache)
    expect_refusal(call, cache, parts)
    expect_same_bytes(before, bytes_of(cache))
    assert torch.equal(cache.step(u, 1, rows=[0, 1]), untouched.step(u, 1, rows=[0, 1]))
    assert cache.taken == untouched.taken


REPLAYED = {
    "reorder": (lambda c: c.reorder([1, 0, 2]), "reorder", "finish_token or abort"),
    "state_dict": (lambda c: c.state_dict(), "state_dict", "finish_token or abort"),
    "crop": (lambda c: c.crop(0), "crop", "finish_token or abort"),
}


@pytest.mark.parametrize("case", REPLAYED)
def test_a_refused_call_inside_a_replayed_token(case):
    call, *parts = REPLAYED[case]
    cache = cache_under_way()
    cache.begin_token([1])
    before = bytes_of(cache)
    expect_refusal(call, cache, parts)
    expect_same_bytes(before, bytes_of(cache))
    cache.abort()
    assert cache.taken == [0, 7, 20]


ONE_LAYER = {
    "generate: no inputs": (lambda c: c.generate(None, 2), "u_t", "tensor", "NoneType"),
    "generate: shape": (lambda c: c.generate(token(1, D), 2), "u_t", "(3, 4)", "(1, 4)"),
    "generate: no steps": (lambda c: c.generate(token(), 0), "steps", ">= 1", "0"),
    "generate: steps as a float": (lambda c: c.generate(token(), 2.0), "steps", "integer", "2.0"),
    "generate: too many": (lambda c: c.generate(token(), 17), "at most 16", "got 17"),
    "generate: next input": (
        lambda c: c.generate(token(), 2, "tanh"), "next_input", "'relu'", "'tanh'",
    ),
    "run: too many": (lambda c: c.run(token(B, D, 17)), "at most 16", "got 17"),
    "run: post": (
        lambda c: c.run(token(B, D, 2), post=token(B, D, 3)), "post", "(3, 4, 2)", "(3, 4, 3)",
    ),
    "crop: too far": (lambda c: c.crop(0), "length >= 1", "rollback = 3", "got 0"),
    "crop: too far in a row": (lambda c: c.crop([4, 4, 0]), "row 2", "got 0"),
    "load: pending outputs": (
        lambda c: with_any_rollback(c).load_state_dict(c.state_dict()), "prompt_fill", "pending",
    ),
}  # fmt: skip


def one_layer(rollback=3):
    h = torch.randn(2, 30, generator=torch.Generator().manual_seed(0)) / 5
    plan = ff.Plan(N, (2, 4))
    cache = ff.FutureFillCache(h, B, N, channels=D, plan=plan, rollback=rollback)
    cache.run(torch.randn(B, D, 4, generator=torch.Generator().manual_seed(1)))
    return cache


def with_any_rollback(cache):
    return one_layer(None)


@pytest.mark.parametrize("case", ONE_LAYER)
def test_a_refused_call_of_one_layer(case):
    call, *parts = ONE_LAYER[case]
    cache = one_layer()
    cache.launch_fills()
    before = bytes_of(cache)
    expect_refusal(call, cache, parts)
    expect_same_bytes(before, bytes_of(cache))
    u = torch.randn(B, D)
    assert torch.equal(cache.step(u), one_layer().step(u))


def test_slack_generates_nothing_in_one_call():
    plan = ff.Plan(N, (2, 4, 8), slack_from=4)
    cache = ff.FutureFillCache(torch.randn(D, 30), B, N, plan=plan)
    before = bytes_of(cache)
    expect_refusal(lambda c: c.generate(token(), 2), cache, ("slack", "slack_from=4"))
    expect_same_bytes(before, bytes_of(cache))


def test_a_first_step_of_rows_that_are_not_there():
    cache = ff.FutureFillCache(taps(1), 1, 8, impl="reference")
    with refusal("rows", "-1 .. 0", "[-2]"):
        cache.step(token(1, 1), rows=[-2])
    assert cache.positions.tolist() == [0]


BETWEEN = {
    "reset": (lambda c: c.reset([2]), "rows"),
    "reorder: rows": (lambda c: c.reorder([0, 2]), "rows"),
    "reorder: their number": (lambda c: c.reorder([0]), "rows"),
    "crop": (lambda c: c.crop([0, -1]), "length"),
    "set_filters": (lambda c: c.set_filters(taps(3)), "G = 3"),
    "load": (lambda c: c.load_state_dict({}), "keys"),
    "run: no room": (lambda c: c.run(torch.ones(2, 2, 5)), "at most 4"),
    "generate: no room": (lambda c: c.generate(torch.ones(2, 2), 5), "at most 4"),
}


@pytest.mark.parametrize("case", BETWEEN)
@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_a_refused_call_leaves_the_newest_token_to_be_taken_back(case, impl):
    torch.manual_seed(1)
    u = torch.randn(10, 2, 2)
    plan = ff.Plan(12, (4, 8))
    cache, expected = (ff.FutureFillCache(taps(), 2, 12, plan=plan, impl=impl) for _ in "ab")
    for u_t in u[:8]:
        cache.step(u_t)
    for u_t in u[:7]:
        expected.step(u_t)
    call, part = BETWEEN[case]
    with refusal(part):
        call(cache)
    cache.take_back({0: 7, 1: 7})
    for u_t in u[7:]:
        assert torch.equal(cache.step(u_t), expected.step(u_t))
