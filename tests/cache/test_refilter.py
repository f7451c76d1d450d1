"""Filters that change while a stream goes on."""

from __future__ import annotations

import pickle

import pytest
import torch

import futurefill_kernels as ff
from tests.cache.full_memory import FullMemory
from tests.cache.snapshot import snapshot
from tests.oracles import EXACT, PRECISE, relative_error

LAYERS, CHANNELS, GROUPS, BATCH, TAPS = 2, 6, 3, 3, 40


def filters(seed, taps=TAPS, groups=GROUPS):
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(LAYERS, groups, taps, generator=g, dtype=torch.float64).to(PRECISE)
    return list(h / taps**0.5)


def inputs(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(LAYERS, BATCH, CHANNELS, count, generator=g, dtype=torch.float64).to(PRECISE)


def expected(u, h, skip):
    """(layers, B, D, T)."""
    return torch.stack(
        [ff.causal_conv(u[i].double(), h[i].double(), skip[i].double()) for i in range(LAYERS)]
    )


def take(cache, u):
    return torch.stack([cache.run(u[i], i) for i in range(LAYERS)])


@pytest.mark.parametrize(
    ("length", "sizes", "slack", "rollback"),
    [
        (120, (4, 8, 24), None, 0), (120, (5,), None, 7), (120, (2, 8, 16), 8, 0),
        (120, (120,), None, None), (120, (4, 16), None, None), (None, (4, 16), None, 9),
    ],
)  # fmt: skip
@pytest.mark.parametrize("taken", [1, 31, 48, 90])
def test_outputs_are_as_if_the_filters_had_always_been_there(
    impl, length, sizes, slack, rollback, taken
):
    plan = ff.Plan(length, sizes, TAPS, slack)
    skip = torch.randn(2, LAYERS, CHANNELS, dtype=PRECISE)
    h, other = filters(1), filters(2, taps=TAPS - 9)
    cache = ff.FutureFillCache(
        h, BATCH, length, channels=CHANNELS, skip=skip[0], plan=plan, impl=impl, rollback=rollback
    )
    u = inputs(120)
    take(cache, u[..., :taken])
    cache.set_filters(other, skip[1])
    right = expected(u, other, skip[1])
    for start in range(taken, 120, 7):
        here = slice(start, start + 7)
        assert relative_error(take(cache, u[..., here]), right[..., here]) < 30 * EXACT
    if rollback is not None:
        cache.crop(120 - (rollback if slack is None else 0))
        with pytest.raises(ValueError, match="expected length >="):
            cache.crop(0)
    cache.set_filters(h)  # the skip stays
    cache.reset()
    assert relative_error(take(cache, u), expected(u, h, skip[1])) < EXACT


def test_rows_at_positions_of_their_own_over_leaps(impl):
    h, other = filters(1), filters(2)
    plan = ff.Plan(None, (4, 16), TAPS)
    cache = ff.FutureFillCache(h, BATCH, None, channels=CHANNELS, plan=plan, impl=impl)
    end, zeros = plan.window.end, torch.zeros(LAYERS, CHANNELS)
    u = inputs(end + 100)
    take(cache, u[..., : end - 2])
    for t in range(BATCH):
        rows = list(range(t, BATCH))
        for layer in range(LAYERS):
            cache.step(u[layer, rows, :, end - 2 + t], layer, rows=rows)
    at = cache.taken
    assert len(set(at)) == 3
    cache.set_filters(other)
    v = torch.stack([u[:, row, :, n : n + 50] for row, n in enumerate(at)], 1)
    right = expected(u, other, zeros)
    y = take(cache, v)
    for row, n in enumerate(at):
        assert relative_error(y[:, row], right[:, row, :, n : n + 50]) < EXACT


def test_a_row_inside_its_prompt(impl):
    """What has been read of it is kept until the first step; later rows need L - 1 positions."""
    h, other = filters(1), filters(2)
    cache = ff.FutureFillCache(h, BATCH, 200, channels=CHANNELS, impl=impl)
    u = inputs(100)
    for layer in range(LAYERS):
        cache.prefill(u[layer, ..., :30], layer)
    cache.set_filters(other)
    right = expected(u, other, torch.zeros(LAYERS, CHANNELS))
    for layer in range(LAYERS):
        y = cache.prefill(u[layer, ..., 30:40], layer)
        assert relative_error(y, right[layer, ..., 30:40]) < EXACT
    y = take(cache, u[..., 40:70])
    assert relative_error(y, right[..., 40:70]) < EXACT
    before = snapshot(cache)
    with pytest.raises(ValueError, match="row 0 has taken 30 positions since a prompt"):
        cache.set_filters(h)
    assert all(map(torch.equal, snapshot(cache), before))
    take(cache, u[..., 70:79])
    cache.set_filters(h)
    right = expected(u, h, torch.zeros(LAYERS, CHANNELS))
    assert relative_error(take(cache, u[..., 79:]), right[..., 79:]) < EXACT


def test_copies_keep_their_filters(impl):
    h, other = filters(1), filters(2)
    cache = ff.FutureFillCache(h, BATCH, 100, channels=CHANNELS, impl=impl)
    u = inputs(90)
    take(cache, u[..., :20])
    copy = cache.clone()
    copy.set_filters(other)
    spare = cache.clone()
    spare.set_filters(other)
    assert spare.state.prepared is copy.state.prepared  # not made twice
    zeros = torch.zeros(LAYERS, CHANNELS)
    for stream, own in ((cache, h), (copy, other)):
        y = take(stream, u[..., 20:])
        assert relative_error(y, expected(u, own, zeros)[..., 20:]) < EXACT
    with pytest.raises(ValueError, match="others: filters of layer 0"):
        cache.load_state_dict(copy.state_dict())


def test_filters_that_do_not_fit_are_refused():
    cache = ff.FutureFillCache(filters(1), BATCH, 100, channels=CHANNELS)
    before = snapshot(cache)
    bad = [
        (filters(1)[:1], "of 2 layers"),
        (filters(1, groups=2), "of G = 3"),
        (filters(1, taps=50), "at most 40 taps above rounding"),
        ([h.requires_grad_() for h in filters(1)], "grad"),
        ([h * torch.nan for h in filters(1)], "finite"),
        ([h.to("meta") for h in filters(1)], r"filters\[0\] with values"),
    ]
    for given, message in bad:
        with pytest.raises(ValueError, match=message):
            cache.set_filters(given)
    with pytest.raises(ValueError, match="expected skip"):
        cache.set_filters(filters(2), torch.ones(5))
    cache.step(torch.zeros(BATCH, CHANNELS, dtype=PRECISE), 0)
    with pytest.raises(ValueError, match="set_filters needs a finished token"):
        cache.set_filters(filters(2))
    cache.abort()
    assert all(map(torch.equal, snapshot(cache)[:5], before[:5]))


@pytest.mark.parametrize("options", [
    {}, {"rollback": None}, {"state_dtype": torch.bfloat16},
    {"plan": ff.Plan(100, (4, 8, 16), TAPS, 8)},
])  # fmt: skip
def test_memory_that_runs_out_leaves_the_old_filters(impl, options):
    dtype = torch.float32 if "state_dtype" in options else PRECISE
    h, other = ([x.to(dtype) for x in filters(seed)] for seed in (1, 2))
    u, plan = inputs(70).to(dtype), ff.Plan(100, (4, 8, 32), TAPS)
    skip = torch.randn(2, LAYERS, CHANNELS, dtype=dtype)
    first = ff.FutureFillCache(
        h, BATCH, 100, channels=CHANNELS, skip=skip[0], impl=impl, **{"plan": plan, **options}
    )
    take(first, u[..., :45])
    bound = 0.02 if "state_dtype" in options else EXACT
    for number in range(1000):
        cache, full = first.clone(), FullMemory(number)
        try:
            with full:
                cache.set_filters(other, skip[1])
        except MemoryError:
            right = expected(u, h, skip[0])
        else:
            right = expected(u, other, skip[1])
        assert relative_error(take(cache, u[..., 45:]), right[..., 45:]) < bound
        if full.left >= 0:
            break
    assert 10 < number < 1000


def test_filters_longer_than_the_stream(impl):
    """What is behind its N taps is for prompts, and is counted where one is not kept."""
    h, other = filters(1), filters(2)
    cache = ff.FutureFillCache(h, BATCH, 16, channels=CHANNELS, impl=impl)
    zeros = torch.zeros(LAYERS, CHANNELS)
    u = inputs(50)
    for layer in range(LAYERS):
        cache.prefill(u[layer, ..., :30], layer)
    cache.set_filters(other)
    right = expected(u, other, zeros)
    assert relative_error(take(cache, u[..., 30:46]), right[..., 30:46]) < EXACT
    with pytest.raises(ValueError, match="filters of 40 taps reach, but row 0 has taken 16"):
        cache.set_filters(h)
    cache.set_filters(filters(3, taps=17))  # these reach what was taken and no more


@pytest.mark.parametrize("length", [100, None])
def test_pickles_have_room_for_the_first_filters(impl, length):
    h, other = filters(1), filters(2, taps=7)
    cache = ff.FutureFillCache(h, BATCH, length, channels=CHANNELS, impl=impl)
    u = inputs(90)
    take(cache, u[..., :20])
    cache.set_filters(other)
    again = pickle.loads(pickle.dumps(cache))
    assert again.plan == cache.plan
    zeros = torch.zeros(LAYERS, CHANNELS)
    assert relative_error(take(again, u[..., 20:70]), expected(u, other, zeros)[..., 20:70]) < EXACT
    again.set_filters(h)
    assert relative_error(take(again, u[..., 70:]), expected(u, h, zeros)[..., 70:]) < EXACT
