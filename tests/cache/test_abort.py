"""What an exception inside a token or a prompt leaves, and how it is taken back."""

from __future__ import annotations

import itertools

import pytest
import torch

import futurefill_kernels as ff
from tests.cache.layered import LAYERS, PROMPT, TOTAL, same_state, streams


class Failure(Exception):
    """Injected."""


def fail(cache, monkeypatch, at_call, error, *, after):
    """The at_call-th step of a layer from now on raises ``error``, before or after it has run."""
    calls = itertools.count()
    step = cache._step

    def failing(*arguments):
        planted = next(calls) == at_call
        if planted and not after:
            raise error
        step(*arguments)
        if planted:
            raise error

    monkeypatch.setattr(cache, "_step", failing)
    monkeypatch.setattr(cache, "_plain_step", None)


@pytest.mark.parametrize("sizes", [(4, 8, 16), ((4, 8, 16), 8)])
@pytest.mark.parametrize("steps", [11, 15])  # inside a block, and the token that completes one
@pytest.mark.parametrize("call", range(LAYERS))
@pytest.mark.parametrize("after", [False, True])
def test_a_token_is_taken_back(impl, monkeypatch, sizes, steps, call, after):
    """An error before a layer runs, an interrupt right after it: abort leaves the token undone."""
    stream, cache, untouched = streams(impl, sizes, steps)
    error = KeyboardInterrupt() if after else Failure()
    with monkeypatch.context() as inside:
        fail(cache, inside, call, error, after=after)
        with pytest.raises(type(error)):
            stream.step(cache, PROMPT + steps)
    cache.abort()
    same_state(cache, untouched)
    cache.abort()  # nothing is under way
    same_state(cache, untouched)
    for t in range(PROMPT + steps, TOTAL):
        stream.step(cache, t)
    assert stream.error() < 2e-6


@pytest.mark.parametrize("call", range(LAYERS))
@pytest.mark.parametrize("after", [False, True])
def test_a_retry_takes_back_by_itself(impl, monkeypatch, call, after):
    stream, cache, _ = streams(impl, (4, 8, 16), 15)
    error = KeyboardInterrupt() if after else Failure()
    for t in range(PROMPT + 15, TOTAL):
        with monkeypatch.context() as inside:
            fail(cache, inside, call, error, after=after)
            with pytest.raises(type(error)):
                stream.step(cache, t)
        stream.step(cache, t)
    assert stream.error() < 2e-6


def test_a_layer_that_raises_can_be_repeated(impl, monkeypatch):
    stream, cache, _ = streams(impl, (4, 8, 16))
    t = PROMPT + 11
    with monkeypatch.context() as inside:
        fail(cache, inside, 1, Failure(), after=False)
        cache.step(stream.u[0, ..., t], 0)
        with pytest.raises(Failure):
            cache.step(stream.u[1, ..., t], 1)
    cache.step(stream.u[1, ..., t], 1)
    cache.step(stream.u[2, ..., t], 2)
    assert cache.positions.tolist() == [12, 12]


def test_only_the_rows_of_a_token_are_taken_back(impl):
    stream, cache, untouched = streams(impl, (4, 8, 16))
    t = PROMPT + 11
    for c in (cache, untouched):
        for layer in range(LAYERS):
            c.step(stream.u[layer, :1, :, t], layer, rows=[0])
    cache.step(stream.u[0, 1:, :, t], 0, rows=[1])
    cache.abort()
    same_state(cache, untouched)
    assert cache.positions.tolist() == [12, 11]


@pytest.mark.parametrize("finished", [False, True])
def test_a_first_token_that_is_taken_back_leaves_its_prompt_open(impl, finished):
    stream, _, _ = streams(impl, (4, 8, 16), 0)
    cache = stream.cache(TOTAL - PROMPT, (4, 8, 16), impl)
    stream.prefill(cache, 0, 4)
    for layer in range(LAYERS if finished else 1):
        cache.step(torch.randn(2, 6), layer)
    if finished:
        cache.take_back({0: 0, 1: 0})
    else:
        cache.abort()
    stream.prefill(cache, 4, PROMPT)
    for t in range(PROMPT, TOTAL):
        stream.step(cache, t)
    assert stream.error() < 2e-6


@pytest.mark.parametrize("steps", [11, 15])
def test_a_finished_token_is_taken_back(impl, steps):
    _, cache, untouched = streams(impl, (4, 8, 16), steps)
    for layer in range(LAYERS):
        cache.step(torch.randn(2, 6), layer)
    cache.take_back({0: steps, 1: steps})
    same_state(cache, untouched)


@pytest.mark.parametrize("inside", [False, True])
def test_a_finished_prompt_call_is_taken_back(impl, inside):
    stream, cache, untouched = streams(impl, (4, 8, 16), 11 if inside else 0)
    for layer in range(LAYERS):
        cache.prefill(torch.randn(2, 6, 9), layer)
    cache.take_back({0: 11, 1: 11} if inside else {})
    if inside:
        same_state(cache, untouched)
    for t in range(PROMPT + 11 * inside, TOTAL):
        stream.step(cache, t)
    assert stream.error() < 2e-6


def test_nothing_of_a_prompt_is_held_once_a_second_token_begins(impl):
    stream, cache, _ = streams(impl, (4, 8, 16), 0)
    stream.step(cache, PROMPT)
    stream.step(cache, PROMPT + 1)
    assert not cache._held_before
    assert not cache._prefill.held(range(2))


@pytest.mark.parametrize("held", [0, 5])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_prompt_is_taken_back(impl, held, layers):
    """The first call of a prompt, or one that continues it."""
    stream, fresh, _ = streams(impl, (4, 8, 16), 0)
    cache = stream.cache(TOTAL - PROMPT, (4, 8, 16), impl)
    if held:
        stream.prefill(cache, 0, held)
    for layer in range(layers):
        cache.prefill(torch.randn(2, 6, 9), layer)
    cache.abort()
    if held:
        stream.prefill(cache, held, PROMPT)
        # what a prompt adds to later positions is there once it is asked for, by a sum of its own
        for name, x in cache.state_dict().items():
            assert torch.allclose(x.double(), fresh.state_dict()[name].double(), atol=1e-5), name
    for t in range(PROMPT if held else 0, TOTAL - PROMPT):
        stream.step(cache, t)
    assert stream.error(0, TOTAL - PROMPT) < 2e-6


@pytest.mark.parametrize("layers", [1, 2])
def test_a_prompt_in_progress_is_taken_back_before_a_step(impl, layers):
    """What an aborted call of a prompt added is no part of the future fill of what stays."""
    stream, fresh, _ = streams(impl, (4, 8, 16), 0)
    cache = stream.cache(TOTAL - PROMPT, (4, 8, 16), impl)
    stream.prefill(cache, 0, PROMPT)
    for layer in range(layers):
        cache.prefill(torch.randn(2, 6, 9), layer)
    cache.abort()
    torch.testing.assert_close(cache.state_dict(), fresh.state_dict(), atol=1e-5, rtol=1e-5)
    for t in range(PROMPT, TOTAL):
        stream.step(cache, t)
    assert stream.error() < 2e-6


@pytest.mark.parametrize("layers", [1, 2])
def test_a_chunk_inside_the_stream_is_taken_back(impl, layers):
    stream, cache, untouched = streams(impl, (4, 8, 16))
    for layer in range(layers):
        cache.prefill(torch.randn(2, 6, 9), layer)
    cache.abort()
    same_state(cache, untouched)
    stream.prefill(cache, PROMPT + 11, PROMPT + 20)
    for t in range(PROMPT + 20, TOTAL):
        stream.step(cache, t)
    assert stream.error() < 2e-6


def test_a_prompt_that_raises_leaves_the_stream(impl, monkeypatch):
    _, cache, untouched = streams(impl, (4, 8, 16))

    tokens = cache._prefill.tokens

    def failing(*arguments):
        tokens(*arguments)
        raise Failure

    with monkeypatch.context() as inside:
        inside.setattr(cache._prefill, "tokens", failing)
        with pytest.raises(Failure):
            cache.prefill(torch.randn(2, 6, 3), 0)
    same_state(cache, untouched)


def test_a_fill_that_raises_is_taken_back(launches, monkeypatch):
    """Where fills are launches of their own: one fails after it has changed sums."""
    stream, cache, untouched = streams("recorder", (4, 8, 16), 15)
    fill = cache.implementation.fill

    def failing(state, level, rows):
        fill(state, level, rows)
        raise Failure

    with monkeypatch.context() as inside:
        inside.setattr(cache.implementation, "fill", failing)
        stream.step(cache, PROMPT + 15)
        for call in (cache.launch_fills, lambda: stream.step(cache, PROMPT + 16)):
            with pytest.raises(Failure):
                call()
    cache.abort()  # nothing is under way
    stream.step(untouched, PROMPT + 15)
    same_state(cache, untouched)
    for t in range(PROMPT + 16, TOTAL):
        stream.step(cache, t)
    assert stream.error() < 2e-6


@pytest.mark.parametrize("run", [False, True])
def test_a_call_whose_fills_have_run_is_not_taken_back(impl, run):
    h, u = torch.randn(3, 40), torch.randn(1, 3, 8)
    cache = ff.FutureFillCache(h, 1, 40, plan=ff.Plan(40, (4, 8)), impl=impl, rollback=1)
    cache.run(u[..., :7])
    cache.run(u[..., 7:]) if run else cache.step(u[..., 7])
    cache.launch_fills()
    with pytest.raises(ValueError, match="take_back comes right behind the newest call"):
        cache.take_back({0: 7})
    cache.crop(7)
    torch.testing.assert_close(cache.run(u[..., 7:]), ff.causal_conv(u, h)[..., 7:])


@pytest.mark.parametrize("steps", [11, 15])
def test_a_replayed_token_is_under_way_until_it_is_finished(launches, steps):
    stream, cache, untouched = streams("recorder", (4, 8, 16), steps)
    launches.clear()

    def replay(t):
        cache.begin_token()
        with cache.capture():
            for layer in range(LAYERS):
                cache.step(stream.u[layer, ..., t], layer)

    replay(PROMPT + steps)
    with pytest.raises(ValueError, match="reorder needs finish_token or abort after a replay"):
        cache.reorder([1, 0])
    cache.abort()
    same_state(cache, untouched)
    replay(PROMPT + steps)
    replay(PROMPT + steps)  # the first one was not finished
    cache.finish_token()
    cache.launch_fills()
    assert [block for kind, block in launches if kind == "fill"] == [4 if steps == 11 else 16]
    for layer in range(LAYERS):
        untouched.step(stream.u[layer, ..., PROMPT + steps], layer)
    same_state(cache, untouched)


@pytest.mark.parametrize("rows", [None, [1]])
def test_reset_forgets_with_and_without_a_prompt(impl, rows):
    """A prompt writes over what was there, a step without one finds zeros."""
    stream, cache, _ = streams(impl, (4, 8, 16))
    chosen = slice(None) if rows is None else slice(1, 2)
    fresh = stream.cache(TOTAL - PROMPT, (4, 8, 16), impl)
    for prompt in (0, 5):
        cache.reset(rows), fresh.reset()
        for c, r in ((cache, rows), (fresh, None)):
            mine = chosen if c is cache else slice(None)
            got = []
            for layer in range(LAYERS) if prompt else ():
                got.append(c.prefill(stream.u[layer, mine, :, :prompt], layer, rows=r))
            for t in range(prompt, 20):
                for layer in range(LAYERS):
                    got.append(c.step(stream.u[layer, mine, :, t], layer, rows=r))
            if c is cache:
                expected = got
        for a, b in zip(expected, got, strict=True):
            torch.testing.assert_close(a, b[chosen])
        torch.testing.assert_close(cache.state.ring[:, chosen], fresh.state.ring[:, chosen])


def test_a_state_saved_after_a_reset_is_empty(impl):
    _, cache, _ = streams(impl, (4, 8, 16))
    cache.reset()
    saved = cache.state_dict()
    assert saved["inputs"].shape[-1] == 0
    assert not saved["pending"].any()
    cache.reset()
    clone = cache.clone()
    clone.reorder([1, 0])
    u = torch.randn(LAYERS, 2, 6)
    outputs = [clone.step(u[layer], layer) for layer in range(LAYERS)]
    again = [cache.step(u[layer], layer) for layer in range(LAYERS)]
    for a, b in zip(outputs, again, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("between", [lambda c: c.reorder([1, 0]), lambda c: c.reset([1])])
def test_a_call_behind_which_rows_have_changed_is_not_taken_back(impl, between):
    h, u = torch.randn(3, 40), torch.randn(2, 3, 8)
    cache = ff.FutureFillCache(h, 2, 40, plan=ff.Plan(40, (4, 8)), impl=impl)
    for t in range(6):
        cache.step(u[..., t])
    between(cache)
    with pytest.raises(ValueError, match="take_back comes right behind the newest call"):
        cache.take_back({0: 5, 1: 5})
