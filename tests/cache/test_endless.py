"""Streams without an end: exact over leaps of their window, in constant memory."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random

import pytest
import torch

import futurefill_kernels as ff
from bench.campaign.interrupts import Interrupt, interrupted
from tests.cache.snapshot import snapshot
from tests.oracles import EXACT, PRECISE, relative_error

#: (taps, block sizes): one tap, a prime, below T_0, a whole block, more than the largest block
FILTERS = [
    (1, (4,)), (2, (1,)), (3, (8,)), (7, (2, 8)), (64, (16, 64)), (97, (4, 16, 32)), (97, (3, 12)),
]  # fmt: skip


class Signal:
    """Inputs of every row and layer, made as they are asked for, and the direct sums over them."""

    def __init__(self, seed, *, taps, channels=2, batch=1, groups=None, layers=1, dtype=PRECISE):
        g = torch.Generator().manual_seed(seed)
        self._randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)
        groups = channels if groups is None else groups
        self.h = [self._randn(groups, taps) / taps**0.5 for _ in range(layers)]
        self.skip = self._randn(layers, channels)
        self._weights = [h.double().repeat_interleave(channels // groups, 0) for h in self.h]
        self.channels, self.taps, self.batch = channels, taps, batch
        # of each layer and row, the newest inputs; older ones add nothing
        self.past = [[self._empty(dtype) for _ in range(batch)] for _ in range(layers)]

    def _empty(self, dtype):
        return torch.zeros(self.channels, self.taps - 1, dtype=dtype)

    def inputs(self, rows, count):
        """(R, D, count)."""
        return self._randn(len(rows), self.channels, count)

    def outputs(self, layer, rows, x):
        """Direct sums (R, D, T) in float64, and x is remembered. x: (R, D, T), gated."""
        found = []
        for row, new in zip(rows, x, strict=True):
            whole = torch.cat([self.past[layer][row], new], 1)
            self.past[layer][row] = whole[:, whole.shape[1] - self.taps + 1 :]
            weights = self._weights[layer].flip(1)[:, None]
            y = torch.nn.functional.conv1d(whole.double()[None], weights, groups=self.channels)
            found.append(y[0] + self.skip[layer].double()[:, None] * new)
        return torch.stack(found)

    def cache(self, sizes, **options):
        plan = ff.Plan(None, sizes, self.taps)
        return ff.FutureFillCache(
            self.h, self.batch, None, channels=self.channels, skip=self.skip, plan=plan, **options
        )


@pytest.mark.parametrize(("taps", "sizes"), FILTERS)
@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (3, 2)])
def test_any_split_over_five_leaps(impl, taps, sizes, batch, channels):
    """A prompt, steps, runs and chunks of all rows."""
    draw = random.Random(taps + channels)
    signal = Signal(taps, taps=taps, channels=channels, batch=batch)
    cache, rows = signal.cache(sizes, impl=impl), list(range(batch))
    window = cache.plan.window
    leaps = 1 if impl == "reference" else 5
    total, t = window.end + leaps * window.period + 3, 0
    before = cache.state.nbytes, cache.state.ring.data_ptr()
    if draw.random() < 0.5:
        u = signal.inputs(rows, draw.randint(1, 3 * taps))
        assert relative_error(cache.prefill(u), signal.outputs(0, rows, u)) < EXACT
    while t < total:
        how = draw.choice(["steps", "run", "chunk", "a period"])
        most = {"steps": 40, "run": 2 * window.period, "chunk": 400}.get(how, window.period)
        count = draw.randint(1, most) if how != "a period" else most
        u = signal.inputs(rows, count)
        if how == "steps" or t == 0:
            y = torch.stack([cache.step(u[..., i]) for i in range(count)], -1)
        else:
            y = cache.prefill(u) if how == "chunk" else cache.run(u)
        assert relative_error(y, signal.outputs(0, rows, u)) < EXACT
        t += count
        assert cache.positions.tolist() == [t] * batch
    assert (cache.state.nbytes, cache.state.ring.data_ptr()) == before


def test_layers_gates_and_shared_filters(impl):
    signal = Signal(0, taps=50, channels=6, groups=2, batch=2, layers=3)
    cache, rows = signal.cache((4, 16), impl=impl), [0, 1]
    for count in (900, 300, 1, 40):
        for layer in range(3):
            u, pre, post = (signal.inputs(rows, count) for _ in range(3))
            if count == 1:
                y = cache.step(u[..., 0], layer, pre=pre[..., 0], post=post[..., 0])[..., None]
            else:
                y = cache.run(u, layer, pre=pre, post=post)
            expected = post.double() * signal.outputs(layer, rows, u * pre)
            assert relative_error(y, expected) < EXACT


@pytest.mark.parametrize("case", range(4))
def test_random_programs_of_rows(impl, case):
    """Rows at their own positions around the ends of their windows: whatever a cache can do."""
    taps, sizes, rollback = [
        (23, (2, 6, 12), 5), (40, (16,), 0), (9, (1, 2, 4, 8), 30), (1, (4,), 3),
    ][case]  # fmt: skip
    draw, batch = random.Random(case), 4
    signal = Signal(case, taps=taps, channels=3, batch=batch)
    make = lambda: signal.cache(sizes, impl=impl, rollback=rollback)  # noqa: E731
    cache, taken = make(), [0] * batch

    def take(rows, count, how):
        nonlocal cache
        u = signal.inputs(rows, count)
        expected = signal.outputs(0, rows, u)
        if how == "run":
            y = cache.run(u)
        elif how == "chunk":
            y = cache.prefill(u, rows=rows)
        else:
            y = torch.stack([cache.step(u[..., i], rows=rows) for i in range(count)], -1)
        assert relative_error(y, expected) < 30 * EXACT
        for row in rows:
            taken[row] += count

    everyone = list(range(batch))
    for row in everyone:  # each some way into its window
        take([row], 1, "steps")
    period = cache.plan.window.period
    for turn in range(1 if impl == "reference" else 3):
        take(everyone, period - 40 if turn else cache.plan.window.end - 40, "run")
        for _ in range(25):
            how = draw.choice(
                ["steps", "steps", "chunk", "run", "crop", "reorder", "load", "abort", "reset",
                 "copy"]
            )  # fmt: skip
            rows = draw.sample(everyone, draw.randint(1, batch))
            if how in ("steps", "chunk"):
                take(rows, draw.randint(1, 12), how)
            elif how == "run":
                take(everyone, draw.randint(1, 12), how)
            elif how == "crop" and rollback:
                back = draw.randint(1, rollback)
                u = signal.inputs(rows, back)
                cache.prefill(u, rows=rows)
                cache.crop([taken[row] for row in everyone])
            elif how == "reorder":
                order = [draw.randrange(batch) for _ in everyone]
                cache.reorder(order)
                signal.past = [[past[old] for old in order] for past in signal.past]
                taken = [taken[old] for old in order]
            elif how == "load":
                state, cache = cache.state_dict(), make()
                cache.load_state_dict(state)
            elif how == "abort":
                u = signal.inputs(rows, draw.randint(1, 5))
                with contextlib.suppress(Interrupt), interrupted(draw.randrange(30)):
                    cache.prefill(u, rows=rows)
                if cache.taken != taken:  # it was done before
                    cache.take_back({row: taken[row] for row in rows})
                cache.abort()
            elif how == "reset":
                row = rows[0]
                cache.reset([row])
                taken[row] = 0
                signal.past[0][row] = torch.zeros_like(signal.past[0][row])
                take([row], 1, "steps")
            elif how == "copy":
                copies = [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
                cache = draw.choice(copies)(cache)
            assert cache.taken == taken


@pytest.mark.parametrize(("taps", "sizes"), [(20, (4, 8)), (8, (16,)), (1, (2,)), (30, (3, 6))])
@pytest.mark.parametrize("rollback", [1, 7, 40])
def test_crop_across_a_leap_leaves_the_bits_of_plain_steps(impl, taps, sizes, rollback):
    signal = Signal(1, taps=taps, batch=2)
    cache, plain = (signal.cache(sizes, impl=impl, rollback=rollback) for _ in range(2))
    end = cache.plan.window.end
    u = signal.inputs([0, 1], end + 60)
    for c in (cache, plain):
        c.run(u[..., : end - 3])
    draw, t = random.Random(rollback), end - 3
    while t < end + 50:
        count = draw.randint(1, rollback)
        cache.prefill(torch.randn(2, 2, count, dtype=u.dtype))
        cache.crop(t)
        here = u[..., t : t + draw.randint(1, 5)]
        got, expected = (
            torch.stack([c.step(here[..., i]) for i in range(here.shape[2])], -1)
            for c in (cache, plain)
        )
        assert torch.equal(got, expected)
        t += here.shape[2]
    with pytest.raises(ValueError, match=f"expected length >= .* with rollback = {rollback}"):
        cache.crop(t - rollback - 1)


@pytest.mark.parametrize("position", [2**31, 2**33, 2**53])
def test_positions_of_years(impl, position):
    """A state that is moved by whole periods goes on bit for bit, also past where 32 bits end."""
    signal = Signal(3, taps=37, channels=2, batch=2)
    young, old = (signal.cache((4, 16), impl=impl, rollback=6) for _ in range(2))
    u = signal.inputs([0, 1], 1100)
    young.run(u[..., :1060])
    young.step(u[:1, :, 0], rows=[0])
    state = young.state_dict()
    period = young.plan.window.period
    shift = (position - 1061) // period * period  # a leap is ahead, and the power of two
    state["positions"] += shift
    old.load_state_dict(state)
    assert old.positions.dtype == torch.int64
    assert old.positions.tolist() == [1061 + shift, 1060 + shift]
    for i in range(10):
        rows = [1, 0] if i % 2 else [1]
        here = u[: len(rows), :, i]
        assert torch.equal(old.step(here, rows=rows), young.step(here, rows=rows))
    assert torch.equal(old.run(u), young.run(u))
    after = [p + shift for p in young.taken]
    assert old.taken == after
    assert max(after) > position
    young.crop([p - 5 for p in young.taken])
    old.crop([p - 5 for p in after])
    assert torch.equal(old.step(u[..., 0]), young.step(u[..., 0]))


def test_a_pickle_has_the_window_of_filters_whose_end_was_left_out(impl):
    """Of a long filter that is cut in steps of some taps; the rest could be cut again."""
    h = torch.randn(2, 6000) * torch.exp(-torch.arange(6000) * 1.7)
    cache, u = (
        ff.FutureFillCache(h, 1, None, plan=ff.Plan(None, (4,), 6000), impl=impl),
        torch.randn(2),
    )
    cache.step(u[None])
    again = pickle.loads(pickle.dumps(cache))
    assert again.plan == cache.plan
    assert torch.equal(again.step(u[None]), cache.step(u[None]))


def test_a_state_goes_on_elsewhere(impl):
    """Saved at the end of a window, into a cache that keeps other positions to take back."""
    signal = Signal(4, taps=29, batch=2)
    cache = signal.cache((4, 8), impl=impl)
    cache.run(signal.inputs([0, 1], cache.plan.window.end))
    state = cache.state_dict()
    assert state["inputs"].shape[-1] == state["pending"].shape[-1] == 40
    other = signal.cache((4, 8), impl="reference", rollback=9)
    other.load_state_dict(state)
    u = signal.inputs([0, 1], 50)
    assert relative_error(other.run(u), cache.run(u)) < EXACT
    for sizes, taps in (((4, 16), 29), ((4, 8), 12)):
        with pytest.raises(ValueError, match="expected"):
            Signal(4, taps=taps, batch=2).cache(sizes).load_state_dict(state)
    finite = ff.FutureFillCache(signal.h, 2, 99, skip=signal.skip, plan=ff.Plan(99, (4, 8)))
    with pytest.raises(ValueError, match=r"plan with length \(0: endless\)"):
        finite.load_state_dict(state)


@pytest.mark.parametrize("calls", range(0, 60, 3))
def test_an_interrupt_inside_a_leap(impl, calls):
    """Whatever it cuts off, the next token goes on from where the stream was."""
    signal = Signal(5, taps=20, batch=3)
    cache = signal.cache((4, 8), impl=impl)
    u = signal.inputs([0, 1, 2], cache.plan.window.end)
    cache.run(u)
    signal.outputs(0, [0, 1, 2], u)
    u = signal.inputs([0, 1, 2], 12)
    try:
        with interrupted(calls):
            cache.step(u[..., 0])
    except Interrupt:
        cache.abort()
    if cache.taken[0] > cache.plan.window.end:
        cache.take_back(dict.fromkeys(range(3), cache.plan.window.end))
    cache = cache.clone()
    y = torch.stack([cache.step(u[..., i]) for i in range(12)], -1)
    assert relative_error(y, signal.outputs(0, [0, 1, 2], u)) < EXACT


def test_a_nan_ends_with_the_filter(impl):
    """It touches its channel's outputs for as long as in any stream, and nothing after a leap."""
    h = torch.randn(2, 20)
    cache = ff.FutureFillCache(h, 1, None, plan=ff.Plan(None, (4, 8), 20), impl=impl)
    u = torch.randn(1, 2, 1100)
    clean = ff.causal_conv(u, h)
    u[0, 0, 1000] = torch.nan
    y = cache.run(u)
    assert y[0, 1].isfinite().all()
    assert y[0, 0, :1000].isfinite().all()
    assert y[0, 0, 1000 + 20 + 16 :].isfinite().all()
    after = slice(1000 + 20 + 16, None)
    assert relative_error(y[..., after], clean[..., after]) < 2e-6


def test_prompts_longer_than_the_filter_and_nothing_of_another_row(impl):
    signal = Signal(6, taps=33, batch=2)
    cache = signal.cache((4, 16), impl=impl)
    u = signal.inputs([0, 1], 2000)
    lengths = [2000, 700]
    y = cache.prefill(u[..., :2000], lengths=lengths)
    for row, n in enumerate(lengths):
        expected = signal.outputs(0, [row], u[row : row + 1, :, :n])
        assert relative_error(y[row : row + 1, :, :n], expected) < EXACT
    v = signal.inputs([0, 1], 1500)
    assert relative_error(cache.run(v), signal.outputs(0, [0, 1], v)) < EXACT


def test_a_planned_stream_of_audio_takes_mebibytes():
    """0.1 s of impulse response at 48 kHz, stereo."""
    h = torch.randn(2, 4800) / 70
    cache = ff.FutureFillCache(h, 1, None)
    assert cache.max_new_tokens is None
    assert cache.plan.length is None
    u = torch.randn(1, 2, 4000)
    y = torch.cat([cache.run(u[..., t : t + 64]) for t in range(0, 4000, 64)], -1)
    expected = ff.causal_conv(u.double(), h.double())
    assert relative_error(y, expected[..., : y.shape[-1]]) < 2e-6
    assert cache.nbytes < 2 << 20
    assert cache.room(0) > 1 << 60
    assert not cache.full


def test_generate_goes_on_over_leaps(impl):
    h = torch.randn(2, 9) / 9
    cache = ff.FutureFillCache(h, 1, None, plan=ff.Plan(None, (2, 4), 9), impl=impl)
    u = cache.generate(torch.ones(1, 2), 2200, "relu")
    inputs = torch.cat([torch.ones(1, 2, 1), u], -1)
    expected = ff.causal_conv(inputs.double(), h.double())[..., :-1].relu()
    assert relative_error(u, expected) < 1e-5


def test_refusals_name_what_an_endless_stream_cannot_have():
    h = torch.ones(1, 40)
    with pytest.raises(ValueError, match="expected filter_length with length None"):
        ff.Plan(None, (4, 8))
    with pytest.raises(ValueError, match="expected filter_length with length None"):
        ff.make_plan(None, 4)
    with pytest.raises(ValueError, match="no slack"):
        ff.make_plan(None, 4, filter_length=9, objective="latency")
    with pytest.raises(ValueError, match="expected slack_from None with length None"):
        ff.Plan(None, (4, 8), 40, slack_from=8)
    with pytest.raises(ValueError, match="expected rollback >= 0 with max_new_tokens None"):
        ff.FutureFillCache(h, 1, None, rollback=None)
    with pytest.raises(ValueError, match="expected rollback >= 0"):
        ff.FutureFillCache(h, 1, None, rollback=-1)
    with pytest.raises(ValueError, match="max_new_tokens = None, got 30"):
        ff.FutureFillCache(h, 1, None, plan=ff.Plan(30, (4,)))
    with pytest.raises(ValueError, match="max_new_tokens = 30, got None"):
        ff.FutureFillCache(h, 1, 30, plan=ff.Plan(None, (4,), 30))
    cache = ff.FutureFillCache(h, 1, None)
    before = snapshot(cache)
    with pytest.raises(ValueError, match="expected positions in 0"):
        cache.load_state_dict(cache.state_dict() | {"positions": torch.tensor([-1])})
    assert all(map(torch.equal, snapshot(cache), before))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_chunk_that_ends_in_some_rows_while_others_leap(impl, layers):
    """What is due where a row ends has not run, whatever a leap of the others needed first."""
    signal = Signal(7, taps=40, batch=3, layers=layers)
    cache, rows = signal.cache((4, 32), impl=impl), [0, 1, 2]
    end, lengths = cache.plan.window.end, [3, 3, 1]
    for count in (end - 1, 3, 50):
        for layer in range(layers):
            u = signal.inputs(rows, count)
            if count != 3:
                y = cache.run(u, layer)
                assert relative_error(y, signal.outputs(layer, rows, u)) < EXACT
                continue
            y = cache.prefill(u, layer, lengths=lengths)
            for row, n in enumerate(lengths):
                expected = signal.outputs(layer, [row], u[row : row + 1, :, :n])
                assert relative_error(y[row : row + 1, :, :n], expected) < EXACT
