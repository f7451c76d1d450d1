"""Calls that are refused: the message names what was expected and what came, nothing changes.

One table a class. Every line: what is called, and the parts of its message.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

import futurefill_kernels as ff
from tests.decoding.models import VOCABULARY, make

B, D, N = 3, 4, 20
BAD = (ValueError, TypeError)


def token(*shape, dtype=torch.float32):
    return torch.zeros(shape or (B, D), dtype=dtype)


def taps(groups=2, count=30):
    return torch.ones(groups, count)


def saved(cache, **changes):
    return {**cache.state_dict(), **changes}


def without(cache, name):
    return {key: x for key, x in cache.state_dict().items() if key != name}


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
    "capture: outside a token": (lambda c: c.capture().__enter__(), "begin_token", "capture"),
}  # fmt: skip


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


def bytes_of(cache):
    """Everything that later calls read: bytes of the tensors, and the books."""
    state = cache.state
    tensors = [getattr(state, f.name) for f in fields(state)]
    raw = [x.contiguous().view(torch.uint8).clone() for x in tensors if isinstance(x, torch.Tensor)]
    books = (list(cache.taken), [cache.in_prompt(row) for row in range(B)], cache.calls)
    return raw, books


def expect_refusal(call, argument, parts):
    with pytest.raises(BAD) as refused:
        call(argument)
    message = str(refused.value)
    assert all(part in message for part in parts), message


def expect_same_bytes(before, after):
    assert before[1] == after[1]
    assert all(map(torch.equal, before[0], after[0]))


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


NEW = {
    "no filters": (lambda h: ff.FutureFillCache([], 1, 8), "filters", "non-empty"),
    "filters are a number": (lambda h: ff.FutureFillCache(2.0, 1, 8), "filters", "float"),
    "filters of 1 dimension": (lambda h: ff.FutureFillCache(h[0], 1, 8), "filters[0]", "(30,)"),
    "filters with NaN": (lambda h: ff.FutureFillCache(h / 0 - h / 0, 1, 8), "finite", "NaN"),
    "filters of integers": (lambda h: ff.FutureFillCache(h.long(), 1, 8), "filters[0]", "int64"),
    "filters with grad": (
        lambda h: ff.FutureFillCache(h.clone().requires_grad_(), 1, 8), "filters[0]", "grad",
    ),
    "other filter rows": (
        lambda h: ff.FutureFillCache([h, h[:1]], 1, 8), "filters[1]", "G = 2", "got 1",
    ),
    "numpy filters": (lambda h: ff.FutureFillCache([h.numpy()], 1, 8), "filters[0]", "ndarray"),
    "no rows": (lambda h: ff.FutureFillCache(h, 0, 8), "batch_size", ">= 1", "got 0"),
    "no positions": (lambda h: ff.FutureFillCache(h, 1, 0), "max_new_tokens", ">= 1", "got 0"),
    "rows as a float": (lambda h: ff.FutureFillCache(h, 1.0, 8), "batch_size", "integer", "1.0"),
    "positions as a float": (
        lambda h: ff.FutureFillCache(h, 1, 1e3), "max_new_tokens", "integer", "1000.0",
    ),
    "channels": (lambda h: ff.FutureFillCache(h, 1, 8, channels=3), "channels", "G = 2", "got 3"),
    "channels as text": (
        lambda h: ff.FutureFillCache(h, 1, 8, channels="4"), "channels", "integer", "'4'",
    ),
    "skip": (lambda h: ff.FutureFillCache(h, 1, 8, skip=h[0]), "skip", "(2,)", "(30,)"),
    "skip as a number": (lambda h: ff.FutureFillCache(h, 1, 8, skip=1.0), "skip", "float"),
    "another plan": (
        lambda h: ff.FutureFillCache(h, 1, 8, plan=ff.Plan(9, (3,))), "plan", "8", "got 9",
    ),
    "no plan": (lambda h: ff.FutureFillCache(h, 1, 8, plan=(2, 4)), "plan", "Plan", "tuple"),
    "no such implementation": (
        lambda h: ff.FutureFillCache(h, 1, 8, impl="fast"), "impl", "'cpu'", "'fast'",
    ),
    "dtype": (
        lambda h: ff.FutureFillCache(h, 1, 8, dtype=torch.int8), "dtype", "float32", "int8",
    ),
    "spectra_dtype": (
        lambda h: ff.FutureFillCache(h, 1, 8, spectra_dtype=torch.int8), "spectra_dtype", "int8",
    ),
    "filters on meta": (
        lambda h: ff.FutureFillCache(h.to("meta"), 1, 8), "filters[0]", "values", "meta",
    ),
    "filters_dtype": (
        lambda h: ff.FutureFillCache(h, 1, 8, filters_dtype=torch.float16),
        "filters_dtype", "bfloat16", "float16",
    ),
    "filters_dtype: wider than the state": (
        lambda h: ff.FutureFillCache(h, 1, 8, filters_dtype=torch.float64),
        "filters_dtype", "float32", "float64",
    ),
    "filters_dtype: a name": (
        lambda h: ff.FutureFillCache(h, 1, 8, filters_dtype="bfloat16"), "filters_dtype", "got bf",
    ),
    "memory": (lambda h: ff.FutureFillCache(h, 1, 8, memory="tiny"), "memory", "small", "'tiny'"),
    "memory: None": (lambda h: ff.FutureFillCache(h, 1, 8, memory=None), "memory", "None"),
    "memory: with slack": (
        lambda h: ff.FutureFillCache(
            h, 1, 64, plan=ff.Plan(64, (4, 8), slack_from=8), memory="small"
        ),
        "memory='speed'", "slack", "'small'",
    ),
    "memory: for latency": (
        lambda h: ff.make_plan(64, 2, objective="latency", memory="small"), "memory", "latency",
    ),
    "made_from": (lambda h: ff.Plan(64, (4, 8), made_from=5), "made_from", "(4, 8)", "got 5"),
    "endless: no filter length": (lambda h: ff.Plan(None, (4,)), "filter_length", "None"),
    "endless: slack": (
        lambda h: ff.Plan(None, (4, 8), 30, slack_from=8), "slack_from None", "length None", "8",
    ),
    "endless: latency": (
        lambda h: ff.make_plan(None, 2, filter_length=30, objective="latency"),
        "objective", "throughput", "latency",
    ),
    "endless: rollback": (
        lambda h: ff.FutureFillCache(h, 1, None, rollback=None), "rollback >= 0", "got None",
    ),
    "endless: rollback below 0": (
        lambda h: ff.FutureFillCache(h, 1, None, rollback=-1), "rollback >= 0", "got -1",
    ),
    "endless: rollback is no number": (
        lambda h: ff.FutureFillCache(h, 1, None, rollback=1.5), "rollback", "integer", "1.5",
    ),
    "rollback is no number": (
        lambda h: ff.FutureFillCache(h, 1, 8, rollback="all"), "rollback", "integer", "'all'",
    ),
    "endless: a plan that ends": (
        lambda h: ff.FutureFillCache(h, 1, None, plan=ff.Plan(8, (4,))), "plan", "None", "got 8",
    ),
    "an endless plan": (
        lambda h: ff.FutureFillCache(h, 1, 8, plan=ff.Plan(None, (4,), 30)), "plan", "8", "None",
    ),
    "endless: rows": (lambda h: ff.FutureFillCache(h, 0, None), "batch_size", ">= 1", "got 0"),
    "conv: u": (lambda h: ff.causal_conv(h, h), "u", "(B, D, T)", "(2, 30)"),
    "conv: numpy": (lambda h: ff.causal_conv(h.numpy(), h), "u", "tensor", "ndarray"),
    "conv: h": (lambda h: ff.causal_conv(h[None], h[0]), "h", "(D, L)", "(30,)"),
    "conv: filter rows": (
        lambda h: ff.causal_conv(h[None, :1], h), "filter rows of h", "D = 1", "2 rows",
    ),
    "conv: skip": (lambda h: ff.causal_conv(h[None], h, h[0]), "skip", "(2,)", "(30,)"),
    "conv: grad": (
        lambda h: ff.causal_conv(h[None].clone().requires_grad_(), h), "u", "requires grad",
    ),
    "fill: n": (lambda h: ff.future_fill(h[None], h, 0), "n >= 1", "got 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", NEW)
def test_a_refused_making(case):
    call, *parts = NEW[case]
    expect_refusal(call, torch.randn(2, 30), parts)


def test_sizes_are_any_whole_numbers():
    cache = ff.FutureFillCache(torch.randn(2, 9), np.int64(2), torch.tensor(5), rollback=1)
    assert (type(cache.batch_size), type(cache.max_new_tokens)) == (int, int)
    assert cache.step(torch.randn(2, 2), rows=np.array([1, 0])).shape == (2, 2)
    cache.crop(torch.tensor(0))
    assert cache.positions.tolist() == [0, 0]


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])

MODEL = {
    "other rows": (lambda m, c: m(IDS[:1], cache=c), "2 rows", "got 1 rows"),
    "no ids": (lambda m, c: m(IDS[:, :0], cache=c), "at least one position", "0 positions"),
    "no room": (lambda m, c: m(IDS.repeat(1, 9), cache=c), "at most 7", "row 0", "got 27"),
    "select: rows": (lambda m, c: c.select([2]).__enter__(), "rows", "0 .. 1", "[2]"),
    "select: lengths": (
        lambda m, c: call_with(m, c, lengths=[4, 1]), "lengths", "1 .. 3", "[4, 1]",
    ),
    "reset": (lambda m, c: c.reset([5]), "rows", "0 .. 1", "[5]"),
    "reorder": (lambda m, c: c.reorder([0]), "rows", "(2,)", "(1,)"),
    "another mixer": (
        lambda m, c: m.mixers[1](torch.zeros(2, 1, 16).double(), c), "order of model.modules",
    ),
}  # fmt: skip


def call_with(model, cache, **selection):
    with cache.select(**selection):
        model(IDS, cache=cache)


@pytest.mark.parametrize("case", MODEL)
@torch.no_grad()
def test_a_refused_call_of_a_model(case):
    call, *parts = MODEL[case]
    model = make("long-conv")
    cache = ff.DecodingCache(model, 2, 10)
    model(IDS, cache=cache)
    for t in range(3):
        model(IDS[:, t : t + 1], cache=cache)
    untouched = cache.clone()
    expect_refusal(lambda c: call(model, c), cache, parts)
    assert cache.positions.tolist() == [3, 3]
    for _ in range(3):
        found, right = model(IDS[:, :1], cache=cache), model(IDS[:, :1], cache=untouched)
        assert torch.equal(found, right)


DECODER = {
    "too many prompts": (lambda d: d([IDS[0]] * 3), "batch_size = 2", "got 3"),
    "too many tokens": (lambda d: d(IDS, 9), "max_new_tokens", "0 .. 8", "got 9"),
    "tokens as a float": (lambda d: d(IDS, 2.5), "max_new_tokens", "integer", "2.5"),
    "no ids": (lambda d: d(IDS[:, :0]), "empty prompt", "(2, 0)"),
    "a flat prompt": (lambda d: d(IDS[0]), "prompt ids (B, P)", "(3,)"),
    "a prompt of floats": (lambda d: d(IDS.float()), "prompt", "integer dtype", "float32"),
    "a prompt of nothing": (lambda d: d(None), "prompt ids (B, P)"),
    "an id too large": (lambda d: d(IDS + VOCABULARY), "0 .. 49", "vocabulary"),
    "lengths": (lambda d: d(IDS, lengths=[9, 1]), "lengths", "1 .. 3", "[9, 1]"),
    "one stop id": (lambda d: d(IDS, stop_ids=10), "stop_ids", "sequence of integers", "10"),
    "stop ids as floats": (lambda d: d(IDS, stop_ids=[1.0]), "stop_ids", "integers", "1.0"),
    "stop id too large": (lambda d: d(IDS, stop_ids=[99]), "0 .. 49", "got 99"),
    "pad_id": (lambda d: d(IDS, pad_id=None), "pad_id", "integer", "None"),
    "seeds": (lambda d: d(IDS, sampler=ff.RandomSampler(seed=[1])), "seed", "(2,)", "(1,)"),
}


@pytest.mark.parametrize("case", DECODER)
def test_a_refused_request(case):
    call, *parts = DECODER[case]
    decoder = ff.Decoder(make("long-conv"), 2, 8)
    first = decoder(IDS, 4)
    positions = decoder.cache.positions.tolist()
    expect_refusal(call, decoder, parts)
    assert decoder.cache.positions.tolist() == positions
    assert torch.equal(decoder(IDS, 4), first)


MODEL_CACHES = {
    "memory": ({"memory": "tiny"}, "memory", "'small'", "'tiny'"),
    "filters_dtype": ({"filters_dtype": torch.float16}, "filters_dtype", "bfloat16", "float16"),
    "endless": ({"max_new_tokens": None}, "max_new_tokens", "integer", "None"),
    "memory with slack": (
        {"memory": "small", "plan": ff.Plan(8, (2, 4), slack_from=4)},
        "memory='speed'", "slack", "'small'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MODEL_CACHES)
@pytest.mark.parametrize("make_one", [ff.DecodingCache, ff.Decoder])
def test_a_refused_making_for_a_model(case, make_one):
    given, *parts = MODEL_CACHES[case]
    options = {"max_new_tokens": 8} | given
    expect_refusal(lambda model: make_one(model, 2, **options), make("long-conv"), parts)


SAMPLER = {
    "temperature": (lambda: ff.RandomSampler(0.0), "temperature", "> 0", "0.0"),
    "top_k": (lambda: ff.RandomSampler(top_k=0), "top_k", ">= 1", "0"),
    "top_p": (lambda: ff.RandomSampler(top_p=1.5), "top_p", "(0, 1]", "1.5"),
    "seed": (lambda: ff.RandomSampler(seed=0.5), "seed", "integers", "0.5"),
}


@pytest.mark.parametrize("case", SAMPLER)
def test_a_refused_sampler(case):
    call, *parts = SAMPLER[case]
    expect_refusal(lambda _: call(), None, parts)


def test_logits_that_are_nan_are_no_token():
    model = make("long-conv")
    prompt = IDS[:1]
    with torch.no_grad():
        model.head.bias[3] = torch.nan
    for sampler in (None, ff.RandomSampler()):
        with pytest.raises(ValueError, match=r"logits without NaN, got NaN in rows \[0\]"):
            ff.decode(model, prompt, 4, sampler=sampler)


def test_a_tiny_temperature_is_greedy():
    logits = torch.tensor([[0.5, 3.0, 2.9], [1e30, -1e30, 0.0]])
    for temperature in (1e-38, 1e-300):
        sampler = ff.RandomSampler(temperature)
        assert sampler(logits, 0).tolist() == [1, 0]
        torch.testing.assert_close(
            sampler.probabilities(logits), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        )
