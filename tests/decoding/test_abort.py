"""Calls of a model that stop inside are taken back: nothing of them is left anywhere."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from bench.campaign.interrupts import Interrupt, interrupted
from futurefill_kernels.decoding.model_cache import DecodingCache
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig
from futurefill_kernels.nn.token import cpu, gpu

BATCH, PROMPT, NEW = 2, 6, 24


class Failure(Exception):
    """Injected."""


class Mixed(nn.Module):
    """Filters of two shapes, a mixer after the last of one of them, and layers that can raise."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.first = ff.nn.Hyena(8, 40)
        self.wide = ff.nn.STU(8, 40, filters=3, tensorised=False)
        self.second = ff.nn.Hyena(8, 40, order=3)
        self.last = ff.nn.ShortConv(8)
        self.head = nn.Linear(8, 11)

    def forward(self, ids, cache=None):
        x = self.embedding(ids)
        for layer in (self.first, self.wide, self.second):
            x = x + layer(x, cache)
        x = self.last(x.transpose(1, 2), cache).transpose(1, 2)
        return self.head(x)


def small(mixer):
    torch.manual_seed(1)
    if mixer == "mixed":
        return Mixed().eval()
    return LanguageModel(LanguageModelConfig(11, 40, 8, 2, 16, 8)).eval()


def state_of(cache):
    """Everything that later calls depend on."""
    found = [cache.positions]
    for part in cache.caches:
        part.launch_fills()
        found += [part.state.ring, part.state.positions]
    found += [x for name, x in cache.state_dict().items() if name.startswith("short.")]
    return [x.clone() for x in found]


def prepared(name, impl, fused=True):
    """A model and two caches after a prompt and three tokens, of which one is for comparison."""
    model = small(name)
    caches = [DecodingCache(model, BATCH, NEW, impl=impl, fused=fused) for _ in range(2)]
    ids = torch.randint(0, 11, (BATCH, PROMPT), generator=torch.Generator().manual_seed(2))
    for cache in caches:
        model(ids, cache=cache)
        for t in range(3):
            model(ids[:, t : t + 1], cache=cache)
    return model, *caches, ids


def expect_same(model, cache, other, ids):
    for a, b in zip(state_of(cache), state_of(other), strict=True):
        assert torch.equal(a, b)
    for t in range(PROMPT):
        torch.testing.assert_close(
            model(ids[:, t : t + 1], cache=cache), model(ids[:, t : t + 1], cache=other)
        )


def convolutions(model):
    return [m for m in model.modules() if isinstance(m, ff.nn.LongFilter | ff.nn.ShortConv)]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("name", ["hyena", "mixed"])
@torch.no_grad()
def test_a_call_that_stops_at_any_layer(impl, monkeypatch, name, width, after):
    """Before a convolution has run, or right after it."""
    model, cache, other, ids = prepared(name, impl, fused=False)
    for module in convolutions(model):
        forward = module.forward

        def failing(*args, forward=forward, **kwargs):
            if after:
                forward(*args, **kwargs)
            raise Failure

        with monkeypatch.context() as inside:
            inside.setattr(module, "forward", failing)
            with pytest.raises(Failure):
                model(ids[:, :width], cache=cache)
    expect_same(model, cache, other, ids)


@pytest.mark.parametrize("name", ["hyena", "mixed"])
@torch.no_grad()
def test_a_prompt_that_stops_at_any_layer(impl, monkeypatch, name):
    model = small(name)
    cache, other = (DecodingCache(model, BATCH, NEW, impl=impl) for _ in range(2))
    ids = torch.randint(0, 11, (BATCH, PROMPT))
    for start, stop in ((0, 4), (4, PROMPT)):
        for module in convolutions(model):
            with monkeypatch.context() as inside:

                def failing(*args, **kwargs):
                    raise Failure

                inside.setattr(module, "forward", failing)
                with pytest.raises(Failure):
                    model(ids[:, start:stop], cache=cache)
        for c in (cache, other):
            logits = model(ids[:, start:stop], cache=c)
        assert torch.isfinite(logits).all()
    expect_same(model, cache, other, ids)


@pytest.mark.parametrize(("name", "fused"), [("hyena", True), ("hyena", False), ("mixed", False)])
@pytest.mark.parametrize("width", [1, 4])
@torch.no_grad()
def test_an_interrupt_anywhere_leaves_a_whole_call_or_none(name, fused, width):
    """The end of a call included: positions and short convolutions say the same."""
    model, cache, _, ids = prepared(name, "auto", fused=fused)
    token, ends = ids[:, :width], set()
    for n in itertools.count():
        broken, other = cache.clone(), cache.clone()
        try:
            with interrupted(n):
                model(token, cache=broken)
        except Interrupt:
            broken.abort()
        else:
            break
        taken = broken.positions[0] - other.positions[0]
        if taken:
            assert taken == width
            model(token, cache=other)
        ends.add(int(taken))
        short = broken.state_dict(), other.state_dict()
        for key in short[0]:
            if key.startswith("short."):
                assert torch.equal(short[0][key], short[1][key])
        torch.testing.assert_close(model(token, cache=broken), model(token, cache=other))
    assert n > 10
    assert 0 in ends


@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt])
@torch.no_grad()
def test_a_fused_token_that_stops_anywhere(monkeypatch, error):
    """Before, between and behind the calls that it is made of."""
    model, cache, other, ids = prepared("hyena", "cpu")
    if cache.fused is None:
        pytest.skip(f"no fused token here: {'; '.join(cache.not_fused)}")
    for n in itertools.count():
        calls = itertools.count()

        def counted(call, n=n, calls=calls):
            def wrapped(*args, **kwargs):
                if next(calls) == n:
                    raise error
                return call(*args, **kwargs)

            return wrapped

        with monkeypatch.context() as inside:
            inside.setattr(cache.fused, "_op", counted(cache.fused._op))
            for part in cache.caches:
                for name in ("begin_token", "finish_token"):
                    inside.setattr(part, name, counted(getattr(part, name)))
            try:
                model(ids[:, :1], cache=cache)
            except error:
                cache.abort()
                continue
        break
    assert n == 1 + 2 * len(cache.caches)
    model(ids[:, :1], cache=other)
    expect_same(model, cache, other, ids)


@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt])
@torch.no_grad()
def test_the_next_call_takes_back_what_was_interrupted(impl, monkeypatch, error):
    """An exception ends a call of the model, Ctrl-C leaves it open until the next."""
    model, cache, other, ids = prepared("hyena", impl)
    for fail in range(2):
        with monkeypatch.context() as inside:

            def failing(*args, **kwargs):
                raise error

            kind = type(cache.fused)
            first = {gpu.FusedToken: "join_history", cpu.FusedToken: "finish_token"}.get(
                kind, "step"
            )
            inside.setattr(cache.caches[0], first, failing)
            with pytest.raises(error):
                model(ids[:, :1], cache=cache)
        if fail and error is KeyboardInterrupt:
            with pytest.raises(ValueError, match=r"stopped inside \(abort takes it back\)"):
                cache.reorder([1, 0])
        elif fail:
            cache.reorder([0, 1])
        model(ids[:, 1:2], cache=cache), model(ids[:, 1:2], cache=other)
    expect_same(model, cache, other, ids)


@pytest.mark.parametrize("name", ["hyena", "mixed"])
@torch.no_grad()
def test_a_replayed_token_is_taken_back(launches, name):
    model, cache, other, ids = prepared(name, "recorder")
    for _ in range(2):
        cache.begin_token()
        with cache.capture():
            model(ids[:, 3:4], cache=cache)
        cache.abort()
    cache.begin_token()
    cache.abort()  # nothing was replayed
    for a, b in zip(state_of(cache), state_of(other), strict=True):
        assert torch.equal(a, b)
    cache.begin_token()
    with cache.capture():
        model(ids[:, 3:4], cache=cache)
    cache.finish_token()
    model(ids[:, 3:4], cache=other)
    expect_same(model, cache, other, ids)


@torch.no_grad()
def test_the_first_replayed_token_gives_the_prompt_back(launches):
    """After it, as before it, the prompt may go on."""
    model = small("mixed")
    cache, other = (DecodingCache(model, BATCH, NEW, impl="recorder") for _ in range(2))
    ids = torch.randint(0, 11, (BATCH, PROMPT))
    for part in (cache, other):
        model(ids, cache=part)
    cache.begin_token()
    with cache.capture():
        model(ids[:, 3:4], cache=cache)
    cache.abort()
    for part in (cache, other):
        model(ids[:, :2], cache=part)
    assert cache.positions.tolist() == [0] * BATCH
    expect_same(model, cache, other, ids)


@pytest.mark.parametrize("fails", [1, 2])
@torch.no_grad()
def test_a_replayed_token_whose_fills_fail(launches, monkeypatch, fails):
    """Of the first cache, or of the second when the first has done its books."""
    model, cache, other, ids = prepared("mixed", "recorder")
    (block, *_), (second, *_) = (c.plan.block_sizes for c in cache.caches)
    assert block == second
    while (int(cache.positions[0]) + 1) % block:
        model(ids[:, :1], cache=cache), model(ids[:, :1], cache=other)
    cache.begin_token()
    with cache.capture():
        model(ids[:, 3:4], cache=cache)
    with monkeypatch.context() as inside:
        part = cache.caches[fails - 1]

        def failing(*args):
            raise Failure

        inside.setattr(part._fills, "owe_all", failing)
        with pytest.raises(Failure):
            cache.finish_token()
    cache.abort()
    expect_same(model, cache, other, ids)
