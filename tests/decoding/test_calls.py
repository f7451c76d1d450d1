"""A cache knows where calls of its model begin and end: each convolution runs once, or nothing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from futurefill_kernels.nn.brackets import foreign_hooks

CHANNELS = 6


@pytest.fixture(autouse=True)
def _no_grad():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


class Pair(nn.Module):
    """Two mixers that run as they are told."""

    def __init__(self):
        super().__init__()
        self.first = ff.nn.LongConv(CHANNELS, 32)
        self.second = ff.nn.Hyena(CHANNELS, 32)
        self.order = ("first", "second")

    def forward(self, x, cache=None):
        for name in self.order:
            x = x + getattr(self, name)(x, cache)
        return x


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, cache=None):
        return 2 * self.inner(x, cache=cache)


@pytest.fixture
def x():
    return torch.randn(2, 20, CHANNELS, dtype=torch.float64)


@pytest.fixture(params=["prompt", "stream"])
def prepared(request, x):
    """A model, its cache after some positions, and how many."""
    model = Pair().double()
    cache = ff.DecodingCache(model, 2, 20)
    if request.param == "stream":
        model(x[:, :4], cache)
        model(x[:, 4:5], cache)
    return model, cache, 5 if request.param == "stream" else 0


def expect_nothing_lost(model, cache, x, at):
    expected = model(x)
    y = torch.cat([model(x[:, at : at + 3], cache), model(x[:, at + 3 : at + 4], cache=cache)], 1)
    torch.testing.assert_close(y, expected[:, at : at + 4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize(
    ("order", "message"),
    [
        (("first", "first", "second"), r"'first.filter' runs twice .* register a second module"),
        (("first", "second", "second"), r"'second.short_conv' runs twice in one call"),
        (("second", "first"), r"expected 'first.filter', got 'second.short_conv'"),
        (("first",), r"call of Pair ended after 1 of 3 convolutions, without 'second.short_conv'"),
        ((), r"ended after 0 of 3 convolutions, without 'first.filter', .*early exit"),
    ],
)
def test_other_calls_are_refused_and_nothing_is_lost(prepared, x, order, message, width):
    model, cache, at = prepared
    before = cache.positions.tolist()
    model.order = order
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            model(x[:, at : at + width], cache)
        assert cache.positions.tolist() == before
    model.order = ("first", "second")
    expect_nothing_lost(model, cache, x, at)


def test_one_mixer_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = ff.nn.LongConv(CHANNELS, 32)

        def forward(self, x, cache=None):
            return self.mixer(self.mixer(x, cache), cache)

    model, x = Twice(), torch.randn(1, 9, CHANNELS)
    cache = ff.DecodingCache(model, 1, 9)
    with pytest.raises(ValueError, match="register a second module that shares the weight"):
        model(x, cache=cache)
    y = model.mixer(x, cache)  # what holds all convolutions may be called by itself
    torch.testing.assert_close(y, model.mixer(x), rtol=0, atol=1e-5)


def test_a_failure_behind_the_last_mixer_loses_nothing(prepared, x):
    model, _, at = prepared

    class Failing(nn.Module):
        def forward(self, x, cache=None):
            model(x, cache=cache)
            raise MemoryError

    outer = Failing()
    outer.model = model
    outer.cache = ff.DecodingCache(outer, 2, 20)
    if at:
        model(x[:, :4], outer.cache)
        model(x[:, 4:5], outer.cache)
    for width in (3, 1):
        with pytest.raises(MemoryError):
            outer(x[:, at : at + width], cache=outer.cache)
    expect_nothing_lost(model, outer.cache, x, at)


@pytest.mark.parametrize("inner", [False, True])
def test_the_outermost_module_is_the_call(x, inner):
    model = Outer(Outer(Pair().double()))
    cache = ff.DecodingCache(model, 2, 20)
    called = model.inner if inner else model
    y = torch.cat([called(x[:, :5], cache=cache), called(x[:, 5:6], cache=cache)], 1)
    torch.testing.assert_close(y, called(x)[:, :6], rtol=0, atol=1e-12)


def test_calls_inside_the_handling_of_an_error(prepared, x):
    model, cache, at = prepared
    try:
        raise MemoryError
    except MemoryError:
        expect_nothing_lost(model, cache, x, at)


def test_a_watched_model_is_told_of_once_and_is_copied_and_saved(x):
    model = Pair().double()
    for _ in range(3):
        cache = ff.DecodingCache(model, 2, 20)
    assert len(model._forward_hooks) == len(model._forward_pre_hooks) == 1
    assert foreign_hooks(model) == []
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        expect_nothing_lost(other, ff.DecodingCache(other, 2, 20), x, 0)
    expect_nothing_lost(model, cache, x, 0)
