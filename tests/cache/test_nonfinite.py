"""One NaN or infinity stays in its row and channel, after its position, and near it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import futurefill_kernels as ff
from tests.oracles import EXACT_TOKEN, PRECISE, relative_error

BATCH, CHANNELS = 2, 3
BAD = (math.nan, math.inf, -math.inf)


def outputs(cache: ff.FutureFillCache, u: torch.Tensor, calls: list[int]) -> torch.Tensor:
    """Of prompts, and after the first 0 of steps and chunks, one after the other."""
    found, t, steps = [], 0, False
    for n in calls:
        if n == 0:
            steps = True
        elif steps and n == 1:
            found.append(cache.step(u[..., t])[..., None])
        else:
            found.append(cache.prefill(u[..., t : t + n]))
        t += n
    return torch.cat(found, -1)


def check_one_bad_value(run, u: torch.Tensor, t: int, bad: float, reach: int) -> None:
    """run(u) -> (B, D, T) is what it is without the bad value, except for reach outputs from t."""
    expected = run(u)
    poisoned = u.clone()
    poisoned[0, 1, t] = bad
    got = run(poisoned)
    assert not got[0, 1, t].isfinite()
    near = got[0, 1, t : t + reach].clone()
    got[0, 1, t : t + reach] = expected[0, 1, t : t + reach]
    assert got.isfinite().all()
    assert relative_error(got, expected) < EXACT_TOKEN
    assert len(near) == min(reach, u.shape[2] - t)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_in_any_mix_of_calls(impl, data):
    taps = data.draw(st.integers(1, 30), "taps")
    calls = data.draw(st.lists(st.integers(1, 40), max_size=2), "prompt")
    prompt = sum(calls)
    calls += [
        0,
        *data.draw(
            st.lists(st.sampled_from([1, 1, 1, 1, 1, 9]), min_size=30, max_size=60), "stream"
        ),
    ]
    total = sum(calls)
    fitting = [s for s in ((1, 2, 4), (2, 6, 12), (4, 16)) if s[-1] <= taps]
    sizes = data.draw(st.sampled_from([None, *fitting]), "sizes")
    plan = None if sizes is None else ff.Plan(total - prompt, sizes)
    g = torch.Generator().manual_seed(taps)
    h = torch.randn(CHANNELS, taps, generator=g, dtype=PRECISE)
    u = torch.randn(BATCH, CHANNELS, total, generator=g, dtype=PRECISE)
    largest = 1

    def run(u):
        nonlocal largest
        cache = ff.FutureFillCache(h, BATCH, total - prompt, plan=plan, impl=impl)
        largest = cache.plan.block_sizes[-1]
        return outputs(cache, u, calls)

    run(u)
    t = data.draw(st.integers(0, total - 1), "t")
    bad = data.draw(st.sampled_from(BAD), "bad")
    check_one_bad_value(run, u, t, bad, taps - 1 + 2 * largest + 1)
    assert largest <= taps or taps >= total - prompt


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("taps", [1, 7, 64, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, PRECISE])
def test_in_whole_sequences(bad, taps, dtype):
    torch.manual_seed(taps)
    h, u = torch.randn(CHANNELS, taps, dtype=dtype), torch.randn(BATCH, CHANNELS, 1024, dtype=dtype)

    def fill(u):
        return ff.future_fill(u, h, 500)

    clean, u_bad = fill(u), u.clone()
    for t in (0, 300, 1023):
        poisoned = u.clone()
        poisoned[0, 1, t] = bad
        y = ff.causal_conv(poisoned, h, skip=torch.ones(CHANNELS, dtype=dtype))
        nan = torch.zeros(1024, dtype=torch.bool)
        nan[t : t + taps] = True
        assert torch.equal(~y[0, 1].isfinite(), nan)
        y[0, 1, nan] = 0
        assert y.isfinite().all()
        u_bad[0, 1, t] = bad
        filled = fill(u_bad)
        left = max(t + taps - 1024, 0)  # outputs after the sequence that its taps still reach
        assert not filled[0, 1, :left].isfinite().any()
        filled[0, 1, :left] = clean[0, 1, :left]
        others = torch.tensor([0, 2])
        assert relative_error(filled[:, others], clean[:, others]) < 1e-5
        assert filled.isfinite().all()


def test_a_tap_reaches_what_it_multiplies():
    h, u = torch.ones(2, 9), torch.ones(1, 2, 20)
    h[1, 4] = math.nan
    y = ff.causal_conv(u, h)
    assert torch.allclose(y[0, 1, :4], torch.arange(1.0, 5))
    assert y[0, 1, 4:].isnan().all()
    assert y[0, 0].isfinite().all()


def test_sums_that_overflow_are_no_nan():
    u = torch.full((1, 1, 100), 3e37)
    y = ff.causal_conv(u, torch.tensor([[1.0, -1.0]]))
    assert torch.allclose(y[0, 0, :1], torch.tensor([3e37]))
    assert y.isfinite().all()
