"""FutureFillCache: any split of a sequence gives one parallel convolution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import futurefill_kernels as ff
from futurefill_kernels import FutureFillCache, Plan
from futurefill_kernels.implementations.select import IMPLEMENTATIONS, cannot_run
from tests.cache.streams import PLANS, Stream
from tests.oracles import EXACT, PRECISE, TOLERANCE, relative_error


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_split_is_the_parallel_convolution(name, data):
    if cannot_run(torch.get_default_device(), PRECISE)[name]:
        pytest.skip(f"{name} does not run here in {PRECISE}")
    draw = data.draw
    length, prompt = draw(st.sampled_from([1, 5, 17, 40, 97])), draw(st.sampled_from([0, 1, 7, 50]))
    groups = draw(st.integers(1, 3))
    stream = Stream(
        draw(st.integers(0, 999)),
        batch=draw(st.integers(1, 3)),
        channels=groups * draw(st.sampled_from([1, 2, 5, 8])),
        groups=groups,
        layers=draw(st.integers(1, 3)),
        taps=draw(st.sampled_from([1, 3, 20, length, length + 50, 300])),
        total=prompt + length,
    )
    sizes, rollback = draw(st.sampled_from(PLANS)), draw(st.sampled_from([None, 0, 1, 9, length]))
    if isinstance(sizes[0], tuple):
        rollback = draw(st.sampled_from([None, 0]))
    rollback = rollback and min(rollback, length)
    cache = stream.cache(length, sizes, name, rollback)
    oldest, t = 0, 0
    while t < prompt:
        stop = draw(st.integers(t + 1, prompt))
        stream.prefill(cache, t, stop)
        t = stop
    while t < prompt + length:
        action = draw(st.sampled_from(["steps", "steps", "chunk", "crop", "move"]))
        taken = int(cache.positions[0])
        if action == "chunk":
            stop = draw(st.integers(t + 1, prompt + length))
            stream.prefill(cache, t, stop)
            t = stop
        elif action == "crop" and taken > oldest and rollback != 0:
            reach = 0 if rollback is None else max(oldest, taken - rollback)
            keep = draw(st.integers(reach, taken - 1))
            cache.crop(keep)
            oldest = reach
            t -= taken - keep
            stream.step(cache, t)
            t += 1
        elif action == "move" and taken:
            state = cache.state_dict()
            sizes = sizes if "pending" in state else draw(st.sampled_from(PLANS))
            slack = isinstance(sizes[0], tuple)
            rollback = None if slack and rollback else rollback
            cache = stream.cache(length, sizes, name, rollback)
            cache.load_state_dict(state)
            oldest = 0 if rollback is None else taken
            stream.step(cache, t)
            t += 1
        else:
            for _ in range(min(draw(st.integers(1, 30)), prompt + length - t)):
                stream.step(cache, t)
                t += 1
    assert stream.error() < EXACT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("sizes", PLANS)
def test_every_dtype_with_float32_state(impl, sizes, dtype):
    if cannot_run(torch.get_default_device(), dtype)[impl]:
        pytest.skip(f"{impl} does not run here in {dtype}")
    stream = Stream(
        1, batch=2, channels=12, groups=4, layers=2, taps=130, total=30 + 100, dtype=dtype
    )
    cache = stream.cache(100, sizes, impl)
    stream.prefill(cache, 0, 30)
    for t in range(30, 130):
        stream.step(cache, t)
    assert stream.error() < TOLERANCE[dtype]


def test_a_step_allocates_nothing(impl):
    if impl == "reference":
        pytest.skip("plain torch allocates its intermediate results")
    cache = FutureFillCache(torch.randn(24, 300), 2, 300, plan=Plan(300, (4, 8, 32)), impl=impl)
    u, out = torch.randn(2, 24), torch.zeros(2, 24)
    cache.step(u, out=out)
    with torch.profiler.profile(profile_memory=True) as profile:
        for _ in range(200):
            cache.step(u, out=out)
    grown = [
        e.key
        for e in profile.key_averages()
        if e.self_cpu_memory_usage > 0 or e.self_device_memory_usage > 0
    ]
    assert grown == []


def test_half_a_token_is_seen():
    cache = FutureFillCache([torch.ones(2, 3)] * 2, 2, 4)
    cache.step(torch.ones(1, 2), rows=[1])
    for call in (cache.state_dict, lambda: cache.crop(0), lambda: cache.reorder([0, 1])):
        with pytest.raises(ValueError, match="needs a finished token, but layer 1 is next"):
            call()
    with pytest.raises(ValueError, match="rows of layer 0 for layer 1"):
        cache.step(torch.ones(1, 2), 1, rows=[0])
    cache.reset()
    cache.step(torch.ones(2, 2), 0)


@pytest.mark.parametrize(
    ("sizes", "slack_from"), [((32, 2048, 16384), 2048), ((32, 96, 3 * 1024, 3 * 8192), 96)]
)
def test_long_fills_are_cut_into_stages(impl, sizes, slack_from):
    """Blocks whose transforms are several stages, and that are no powers of two."""
    if impl == "reference":
        pytest.skip("plain torch does not cut its fills")
    length, taken = 60000, 40000
    torch.manual_seed(0)
    h = torch.randn(3, length) / length**0.5
    u = torch.randn(1, 3, length)
    cache = FutureFillCache(
        h, 1, length, plan=Plan(length, sizes, slack_from=slack_from), impl=impl
    )
    y = torch.empty(length, 1, 3)
    for t in range(taken):
        cache.step(u[..., t], out=y[t])
    # a restored stream continues in the middle of its firings
    restored = FutureFillCache(h, 1, length, plan=cache.plan, impl=impl)
    restored.load_state_dict(cache.state_dict())
    z = torch.empty(length - taken, 1, 3)
    for t in range(taken, length):
        cache.step(u[..., t], out=y[t])
        restored.step(u[..., t], out=z[t - taken])
    assert torch.equal(z, y[taken:])
    expected = ff.causal_conv(u.double(), h.double())
    assert relative_error(y.permute(1, 2, 0), expected) < 1e-6


def test_what_is_captured_keeps_no_books(impl):
    """Replays stand between begin_token and finish_token; here the captured step runs itself."""
    stream = Stream(8, batch=2, channels=4, groups=4, layers=2, taps=20, total=12)
    cache = stream.cache(12, (2, 6), impl)
    with pytest.raises(ValueError, match="expected begin_token before capture"):
        cache.capture().__enter__()
    for t in range(12):
        cache.begin_token()
        with cache.capture():
            before = cache.positions
            stream.step(cache, t)
            assert torch.equal(cache.positions, before)
        cache.finish_token()
        assert cache.positions.tolist() == [t + 1, t + 1]
    assert stream.error() < EXACT
    with pytest.raises(ValueError, match="all max_new_tokens = 12 are taken"):
        cache.begin_token()


def test_a_token_begins_where_the_last_one_was_finished():
    cache = FutureFillCache([torch.ones(2, 3)] * 2, 1, 4)
    cache.step(torch.ones(1, 2))
    cache.begin_token()
    assert not cache.state.ring.any()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("place", ["u", "pre", "post"])
def test_out_may_be_an_input(name, place):
    if cannot_run(torch.get_default_device(), PRECISE)[name]:
        pytest.skip(f"{name} does not run here in {PRECISE}")
    stream = Stream(7, batch=2, channels=5, groups=5, layers=1, taps=20, total=12)
    cache = stream.cache(12, (2, 4), name)
    for t in range(12):
        inputs = {key: getattr(stream, key)[0, ..., t].contiguous() for key in ("u", "pre", "post")}
        out = inputs[place]
        cache.step(inputs["u"], pre=inputs["pre"], post=inputs["post"], out=out)
        stream.got[0, ..., t] = out
    assert stream.error() < TOLERANCE[PRECISE]
