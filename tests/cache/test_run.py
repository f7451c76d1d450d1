"""Many steps in one call: bits and books of as many calls of step."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import FutureFillCache, Plan
from futurefill_kernels.cache import chunk as chunk_module
from futurefill_kernels.cache import prompt as prompt_module
from futurefill_kernels.implementations.select import IMPLEMENTATIONS, cannot_run
from tests.cache.snapshot import snapshot
from tests.cache.streams import Stream, plan_of
from tests.oracles import PRECISE, TOLERANCE, relative_error

LENGTH, PROMPT = 40, 5
PLAIN = [(4, 8, 24), (5, 35)]
CASES = list(itertools.product([1, 3], [*PLAIN, ((2, 6, 12), 6)]))


def _available(name, dtype=PRECISE):
    if cannot_run(torch.get_default_device(), dtype)[name]:
        pytest.skip(f"{name} does not run here in {dtype}")


def _stream(layers, dtype=PRECISE):
    total = PROMPT + LENGTH
    return Stream(
        3, batch=2, channels=6, groups=3, layers=layers, taps=31, total=total, dtype=dtype
    )


def _run(stream, cache, start, stop, first_layer=0):
    for i in range(first_layer, stream.layers):
        at = (i, slice(None), slice(None), slice(start, stop))
        y = cache.run(stream.u[at], i, pre=stream.pre[at], post=stream.post[at])
        stream.got[at] = y.double()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize(("layers", "sizes"), CASES)
def test_blocks_between_steps_are_the_parallel_convolution(name, layers, sizes, monkeypatch):
    _available(name)
    monkeypatch.setattr(chunk_module, "TOKENS", 5)
    stream = _stream(layers)
    cache = stream.cache(LENGTH, sizes, name)
    stream.prefill(cache, 0, PROMPT)
    _run(stream, cache, PROMPT, PROMPT + 7)
    assert cache.taken == [7, 7]
    for t in range(PROMPT + 7, PROMPT + 11):
        stream.step(cache, t)
    _run(stream, cache, PROMPT + 11, PROMPT + 12)
    stream.prefill(cache, PROMPT + 12, PROMPT + 15)
    _run(stream, cache, PROMPT + 15, PROMPT + LENGTH)
    assert stream.error() < TOLERANCE[PRECISE]
    assert cache.full


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("layers", "sizes", "rollback"),
    [(*x, r) for x in CASES if x[1] in PLAIN for r in (0, 10, None)]
    + [(1, ((2, 6, 12), 6), r) for r in (0, None)],
)
def test_bits_of_steps_on_the_cpu(layers, sizes, rollback, dtype):
    _available("cpu", dtype)
    stream, steps = _stream(layers, dtype), _stream(layers, dtype)
    cache, other = (x.cache(LENGTH, sizes, "cpu", rollback) for x in (stream, steps))
    stream.prefill(cache, 0, PROMPT)
    steps.prefill(other, 0, PROMPT)
    for start, stop in itertools.pairwise((PROMPT, PROMPT + 13, PROMPT + 14, PROMPT + 30)):
        _run(stream, cache, start, stop)
        for t in range(start, stop):
            steps.step(other, t)
        assert torch.equal(stream.got, steps.got)
        assert all(map(torch.equal, snapshot(cache), snapshot(other)))
    if rollback != 0:
        cache.crop(20)
        other.crop(20)
    for t in range(PROMPT + cache.taken[0], PROMPT + LENGTH):
        stream.step(cache, t)
        steps.step(other, t)
    assert torch.equal(stream.got, steps.got)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize(("layers", "sizes"), CASES)
def test_a_call_that_stops_is_taken_back(name, layers, sizes, monkeypatch):
    _available(name)
    monkeypatch.setattr(chunk_module, "TOKENS", 5)
    stream = _stream(layers)
    cache = stream.cache(LENGTH, sizes, name)
    stream.prefill(cache, 0, PROMPT)
    for start, begun in ((PROMPT, False), (PROMPT + 9, True)):
        if begun:
            _run(stream, cache, PROMPT, start)
        before, calls = snapshot(cache), cache.calls
        # what slack has kept is built again, as far as it is read
        compared = [
            i for i in range(len(before)) if i not in (1, 2) or cache.plan.slack_from is None
        ]
        for error, failing in itertools.product((RuntimeError, KeyboardInterrupt), range(layers)):
            for i in range(failing):
                at = (i, slice(None), slice(None), slice(start, start + 12))
                cache.run(stream.u[at], i, pre=stream.pre[at], post=stream.post[at])
            with monkeypatch.context() as patched:
                _break(patched, cache, error)
                u = stream.u[failing, ..., start : start + 12]
                with pytest.raises(error, match="planted"):
                    cache.run(u, failing)
            cache.abort()
            after = snapshot(cache)
            assert [i for i in compared if not torch.equal(after[i], before[i])] == []
            assert [cache.in_prompt(row) for row in range(2)] == [not begun] * 2
        assert cache.calls == calls
    _run(stream, cache, PROMPT + 9, PROMPT + LENGTH)
    assert stream.error() < TOLERANCE[PRECISE]


def _break(patched, cache, error):
    """The sixth step raises, or the second block of tokens, or the transform."""
    chunks = cache._prefill._chunks
    patched.setattr(cache, "_plain", None)
    make_layer = chunks._layer

    def failing_layer(*args):
        own = make_layer(*args)
        run = own.run and _failing(own.run, 2, error)
        return replace(own, step=_failing(own.step, 6, error), run=run, plain=None)

    patched.setattr(chunks, "_layer", failing_layer)
    patched.setattr(prompt_module, "fast_conv_range", _failing(None, 1, error))


def _failing(function, call, error):
    calls = itertools.count(1)

    def failing(*args):
        if next(calls) == call:
            raise error("planted")
        function(*args)

    return failing


@pytest.mark.parametrize("name", ["cpu", "reference"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_outputs_that_became_inputs_are_taken_back(name, error, monkeypatch):
    _available(name)
    monkeypatch.setattr(chunk_module, "TOKENS", 5)
    cache = FutureFillCache(
        torch.randn(3, 31, dtype=PRECISE), 2, LENGTH, plan=plan_of(LENGTH, (4, 8)), impl=name
    )
    cache.run(torch.randn(2, 3, 9, dtype=PRECISE))
    before, u = snapshot(cache), torch.randn(2, 3, dtype=PRECISE)
    with monkeypatch.context() as patched:
        _break(patched, cache, error)
        with pytest.raises(error, match="planted"):
            cache.generate(u, 20)
    cache.abort()
    assert all(map(torch.equal, snapshot(cache), before))
    assert torch.equal(cache.clone().generate(u, 20), cache.generate(u, 20))


def test_inputs_of_another_dtype_after_a_run():
    _available("cpu", torch.float32)
    h, u = torch.randn(3, 31), torch.randn(2, 3, 12)
    caches = [FutureFillCache(h, 2, LENGTH, dtype=torch.bfloat16, impl="cpu") for _ in range(2)]
    for cache in caches:
        cache.run(u.bfloat16())
        cache.widen(torch.float32)
    y = torch.stack([caches[1].step(u[..., t]) for t in range(12)], -1)
    assert torch.equal(caches[0].run(u), y)


def test_layer_0_again_takes_a_run_back():
    stream = _stream(2)
    cache = stream.cache(LENGTH, (4, 8), "reference")
    stream.prefill(cache, 0, PROMPT)
    cache.run(torch.ones_like(stream.u[0, ..., :9]))
    _run(stream, cache, PROMPT, PROMPT + LENGTH)
    assert stream.error() < TOLERANCE[PRECISE]


ZEROS = torch.zeros(2, 6, 3)
BAD_CALLS = {
    "dimensions": (lambda c: c.run(ZEROS[0]), ValueError, r"expected u \(B, D, P\)"),
    "shape": (lambda c: c.run(ZEROS[:, :5]), ValueError, r"\(2, 6, 3\), got \(2, 5, 3\)"),
    "empty": (lambda c: c.run(ZEROS[..., :0]), ValueError, "P >= 1"),
    "dtype": (lambda c: c.run(ZEROS.half()), TypeError, "u of dtype"),
    "gate": (lambda c: c.run(ZEROS, pre=ZEROS[..., :2]), ValueError, "expected pre"),
    "grad": (lambda c: c.run(ZEROS.clone().requires_grad_()), ValueError, "u requires grad"),
    "room": (lambda c: c.run(ZEROS.repeat(1, 1, 14)), ValueError, "at most 37 more positions"),
    "layer": (lambda c: c.run(ZEROS, 1), ValueError, "expected layer 0 of 2, got 1"),
    "layers": (lambda c: c.generate(ZEROS[..., 0], 3), ValueError, "one layer, got 2"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_what_is_refused_changes_nothing(call, error, message):
    cache = FutureFillCache([torch.ones(3, 9)] * 2, 2, LENGTH, channels=6)
    for layer in range(2):
        cache.run(ZEROS + 1, layer)
    before = snapshot(cache)
    with pytest.raises(error, match=message):
        call(cache)
    assert all(map(torch.equal, snapshot(cache), before))
    assert cache.calls == 1


def test_other_steps_for_a_later_layer_are_refused():
    cache = FutureFillCache([torch.ones(3, 9)] * 2, 2, LENGTH, channels=6)
    cache.run(ZEROS)
    with pytest.raises(ValueError, match="expected the method, rows and lengths of layer 0"):
        cache.run(ZEROS[..., :2], 1)
    with pytest.raises(ValueError, match="expected the method, rows and lengths of layer 0"):
        cache.prefill(ZEROS, 1)
    cache.run(ZEROS, 1)
    assert cache.taken == [3, 3]


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("next_input", ["identity", "relu"])
def test_outputs_become_inputs(name, next_input, monkeypatch):
    _available(name)
    monkeypatch.setattr(chunk_module, "TOKENS", 7)
    torch.manual_seed(0)
    h = torch.randn(3, 20, dtype=PRECISE) / 5
    u = torch.randn(2, 6, dtype=PRECISE)
    cache = FutureFillCache(h, 2, LENGTH, channels=6, plan=plan_of(LENGTH, (4, 8)), impl=name)
    new = cache.generate(u, LENGTH, next_input)
    assert new.shape == (2, 6, LENGTH)
    inputs = torch.cat([u[..., None], new[..., :-1]], -1)
    y = ff.causal_conv(inputs.double(), h.double().repeat_interleave(2, 0))
    expected = y.relu() if next_input == "relu" else y
    assert relative_error(new.double(), expected) < TOLERANCE[PRECISE]
    assert cache.full


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_rectified_nan_stays_one(dtype):
    _available("cpu", dtype)
    cache = FutureFillCache(torch.ones(1, 1, dtype=dtype), 1, 9, channels=5, impl="cpu")
    u = torch.tensor([[torch.nan, -torch.inf, torch.inf, -2.0, 3.0]], dtype=dtype)
    y = cache.generate(u, 1, "relu")[0, :, 0]
    assert torch.equal(
        y.nan_to_num(7.0, torch.inf), torch.tensor([7, 0, torch.inf, 0, 3]).to(dtype)
    )
    with pytest.raises(ValueError, match="next_input 'identity' or 'relu', got 'tanh'"):
        cache.generate(u, 1, "tanh")
    with pytest.raises(ValueError, match="steps >= 1, got 0"):
        cache.generate(u, 0)
    slack = FutureFillCache(torch.ones(1, 9), 1, 24, plan=plan_of(24, ((2, 6, 12), 6)))
    with pytest.raises(ValueError, match="plan without slack, got slack_from=6"):
        slack.generate(u[:, :1].float(), 1)


def test_a_negated_view_is_its_values():
    h, u = torch.randn(3, 9), torch.randn(1, 3, 1)
    caches = [FutureFillCache(h, 1, 9, plan=Plan(9, (3,))) for _ in range(2)]
    ys = [cache.run(x) for cache, x in zip(caches, (u, torch._neg_view(-u)), strict=True)]
    assert torch.equal(*ys)


REFUSED = {
    "channels": lambda c: c.run(torch.randn(2, 5, 3)),
    "room": lambda c: c.run(torch.randn(2, 6, 99)),
    "an input": lambda c: c.generate(torch.randn(2, 5), 3),
    "steps": lambda c: c.generate(torch.randn(2, 6), 99),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_a_refused_block_leaves_the_books(impl, refused):
    """What the newest call was, what its rows held before it, and which fills have run."""
    torch.manual_seed(0)
    h, u = torch.randn(6, 40), torch.randn(2, 6, 60)
    cache = FutureFillCache(h, 2, 40, plan=Plan(40, (8, 16), 40), impl=impl, rollback=4)
    before = cache.clone()
    cache.prefill(u[..., :20])
    prompted = cache.clone()
    cache.step(u[..., 20])
    with pytest.raises(ValueError, match=r"expected|positions"):
        REFUSED[refused](cache)
    assert cache.taken == [1, 1]
    cache.take_back({0: 0, 1: 0})
    assert cache.in_prompt(0)
    for t in range(20, 27):
        assert torch.equal(cache.step(u[..., t]), prompted.step(u[..., t]))
    cache = before  # now with rows whose fills have run to other positions
    plain = cache.clone()
    for t in range(7):
        cache.step(u[..., t])
    cache.step(u[:1, :, 7], rows=[0])
    cache.launch_fills()
    cache.step(u[1:, :, 7], rows=[1])
    with pytest.raises(ValueError, match=r"expected|positions"):
        REFUSED[refused](cache)
    cache.reorder([1, 0])
    for t in range(30):
        expected = plain.step(u[..., t])
        if t >= 8:
            torch.testing.assert_close(cache.step(u[[1, 0], :, t]), expected[[1, 0]])
