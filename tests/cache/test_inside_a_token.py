"""What comes while a token or call has run in some layers only."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from tests.oracles import relative_error

LAYERS, B, D, BEFORE = 2, 2, 4, 11


def begun(impl, how):
    """A stream inside a call that only its first layer has run, what came before, and filters."""
    torch.manual_seed(0)
    h = [torch.randn(D, 20) for _ in range(LAYERS)]
    cache = ff.FutureFillCache(h, B, 64, impl=impl, plan=ff.Plan(64, (8, 32), 20))
    before = torch.randn(LAYERS, B, D, BEFORE)
    for t in range(BEFORE):
        for layer in range(LAYERS):
            cache.step(before[layer, ..., t], layer)
    if how == "step":
        cache.step(torch.randn(B, D), 0)
    else:
        getattr(cache, how)(torch.randn(B, D, 9), 0)
    return cache, before, h


def assert_goes_on(cache, before, h):
    u = torch.randn(LAYERS, B, D, 20)
    for t in range(20):
        for layer in range(LAYERS):
            y = cache.step(u[layer, ..., t], layer)
            seen = torch.cat([before[layer], u[layer, ..., : t + 1]], -1).double()
            assert relative_error(y, ff.causal_conv(seen, h[layer].double())[..., -1]) < 2e-6


@pytest.mark.parametrize("how", ["step", "run", "prefill"])
def test_a_reset_leaves_nothing_of_the_call(impl, how):
    cache, before, h = begun(impl, how)
    cache.reset()
    assert_goes_on(cache, before[..., :0], h)


@pytest.mark.parametrize("how", ["step", "run", "prefill"])
def test_a_clone_is_refused_and_the_call_goes_on_without_it(impl, how):
    cache, before, h = begun(impl, how)
    with pytest.raises(ValueError, match="clone needs a finished token, but layer 1 is next"):
        cache.clone()
    cache.abort()
    assert_goes_on(cache.clone(), before, h)
