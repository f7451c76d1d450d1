"""A state of 16 bits: rounded once for each level, and otherwise what a float32 one is."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.state.open_block import whole_slots

from .caches import HALF, ROUNDING, caches, same, steps

#: Smallest level, more than one product of it, blocks of one and of no power of two, no level.
PLANS = [(4, 8, 16), (3, 12), (1, 2, 32), (64, 128), (150,)]


@pytest.mark.parametrize("sizes", PLANS)
@pytest.mark.parametrize(
    ("state_dtype", "dtype"),
    [(HALF[0], torch.float32), (HALF[1], torch.float32), (HALF[0], torch.bfloat16)],
)
def test_every_output_is_within_the_roundings(impl, sizes, state_dtype, dtype):
    """Of an input, of what a prompt leaves, and one more for each level."""
    h, (cache,) = caches(impl, sizes, state_dtype=state_dtype, dtype=dtype)
    u = torch.randn(3, 6, 157).to(dtype)
    start = [cache.prefill(u[..., :7], layer) for layer in range(2)]
    new = steps(cache, u[..., 7:])
    for layer in range(2):
        y = torch.cat([start[layer], new[layer]], -1).double()
        exact = ff.causal_conv(u.double(), h[layer].double())
        size = ff.causal_conv(u.double().abs(), h[layer].double().abs())
        roundings = 2 + len(cache.plan.levels)
        bound = 1.01 * size * ROUNDING[state_dtype] * roundings + 1e-5
        if dtype is not torch.float32:
            bound += exact.abs() * ROUNDING[dtype]
        assert bool(((y - exact).abs() <= bound).all())
        if dtype is torch.float32:  # the state is no wider than it says
            assert (y - exact).norm() > 1e-5 * exact.norm()


def test_what_the_smallest_level_adds_is_not_rounded(impl):
    h = torch.randn(5, 64) / 8
    u = torch.randn(2, 5, 64).bfloat16().float()
    cache = ff.FutureFillCache(
        h, 2, 64, plan=ff.Plan(64, (32,)), impl=impl, state_dtype=torch.bfloat16
    )
    y = torch.stack([cache.step(u[..., t]) for t in range(64)], -1)
    torch.testing.assert_close(y, ff.causal_conv(u, h), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", PLANS)
@pytest.mark.parametrize(
    ("rollback", "state_dtype"), [(5, HALF[0]), (40, HALF[1]), (40, HALF[0]), (None, HALF[0])]
)
def test_crop_is_bit_exact(impl, sizes, rollback, state_dtype):
    """From inside a block and from its ends, into it and into those before it."""
    _, (cache, plain) = caches(impl, sizes, 2, rollback=rollback, state_dtype=state_dtype)
    u = torch.randn(3, 6, 150)
    for c in (cache, plain):
        for layer in range(2):
            c.prefill(torch.ones(3, 6, 5), layer)
    t = 0
    for here, back in ((3, 2), (16, 5), (64, 40), (110, 33), (128, 1), (150, 20)):
        back = min(back, 150 if rollback is None else rollback)
        expected = steps(plain, u[..., t:here])
        if here - back > t:
            steps(cache, u[..., t : here - back])
        steps(cache, torch.randn(3, 6, back))
        cache.crop(here - back)
        again = steps(cache, u[..., here - back : here])
        assert torch.equal(again, expected[..., -back:])
        same(cache, plain)
        t = here


@pytest.mark.parametrize("sizes", PLANS)
def test_rows_of_different_positions(impl, sizes):
    """Some rows step, some are cropped, others forget, move and are copied."""
    _, (cache, plain) = caches(impl, sizes, 2, rollback=20)
    u = torch.randn(3, 6, 150)
    for c in (cache, plain):
        for layer in range(2):
            c.prefill(u[..., :9], layer)
        steps(c, u[[2, 0], :, 9:40], [2, 0])
        steps(c, u[[1], :, 9:12], [1])
    steps(cache, torch.randn(1, 6, 8), [2])
    cache.crop([31, 3, 31])
    same(cache, plain)
    cache.reorder([2, 0, 0])
    here = steps(cache, u[[2, 0, 0], :, 40:45])
    there = steps(plain, u[[0, 2], :, 40:45], [0, 2])
    assert torch.equal(here[:, [1, 0]], there)
    assert torch.equal(here[:, 2], here[:, 1])
    fresh = caches(impl, sizes, rollback=20)[1][0]
    cache.reset([1])
    steps(fresh, u[[1], :, :50], [1])
    steps(cache, u[[1], :, :50], [1])
    a, b = cache.state, fresh.state
    places = a.positions.tolist()
    slots = [whole_slots(x, x.positions.tolist())[:, 1] for x in (a, b)]
    assert places[1] == 50
    assert torch.equal(*slots)


@pytest.mark.parametrize("sizes", PLANS)
@pytest.mark.parametrize(
    ("rollback", "taken"), [(0, 0), (0, 37), (0, 150), (None, 16), (None, 37), (4, 48)]
)
def test_copies_go_on_with_the_same_bits(impl, sizes, rollback, taken):
    _, (cache, other) = caches(impl, sizes, 2, rollback=rollback)
    u = torch.randn(3, 6, 150)
    for layer in range(2):
        cache.prefill(torch.ones(3, 6, 5), layer)
    if taken:
        steps(cache, u[..., :taken])
    saved = cache.state_dict()
    other.load_state_dict(saved)
    copies = [other, cache.clone(), copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))]
    for c in copies:
        assert c.state.ring.dtype is torch.bfloat16
        same(c, cache)
    if taken < 150:
        expected = steps(cache, u[..., taken:])
        for c in copies:
            assert torch.equal(steps(c, u[..., taken:]), expected)


@pytest.mark.parametrize("state_dtype", HALF)
def test_no_input_is_rounded_in_its_own_output(impl, state_dtype):
    """Nor in a transform of many positions inside the stream."""
    h, u = torch.randn(3, 1), torch.randn(2, 6, 90)
    cache = ff.FutureFillCache(
        h, 2, 90, channels=6, impl=impl, rollback=None, state_dtype=state_dtype
    )
    y = [cache.step(u[..., 0])[..., None], cache.prefill(u[..., 1:81]), cache.run(u[..., 81:])]
    exact = h.repeat_interleave(2, 0) * u
    assert torch.allclose(torch.cat(y, -1), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sizes", PLANS)
@pytest.mark.parametrize("rollback", [0, 9, None])
def test_runs_chunks_and_calls_taken_back(impl, sizes, rollback):
    """They leave the bits of steps, or as little as a transform of all inputs."""
    _, (cache, plain) = caches(impl, sizes, 2, rollback=rollback)
    u = torch.randn(3, 6, 150)
    steps(cache, u[..., :5]), steps(plain, u[..., :5])
    for start, stop in ((5, 17), (17, 64), (64, 131)):
        given = torch.randn(3, 6, stop - start)
        for layer in range(2):
            cache.prefill(given, layer)
        cache.take_back(dict.fromkeys(range(3), start))
        cache.run(given, 0)
        cache.abort()
        cache.step(given[..., 0], 0)
        cache.abort()
        same(cache, plain)
        expected = steps(plain, u[..., start:stop])
        here = torch.stack([cache.run(u[..., start:stop], layer) for layer in range(2)])
        assert torch.equal(here, expected)
        same(cache, plain)
    chunk = torch.stack([cache.prefill(u[..., 131:], layer) for layer in range(2)])
    torch.testing.assert_close(chunk, steps(plain, u[..., 131:]), rtol=0, atol=0.05)


def test_a_stream_of_one_layer_in_blocks(impl):
    """Runs and generations that the engine takes in one call."""
    h = torch.randn(4, 90) / 10
    a, b = (
        ff.FutureFillCache(h, 2, 90, plan=ff.Plan(90, (4, 8, 16)), impl=impl, rollback=8,
                           state_dtype=torch.float16)
        for _ in range(2)
    )  # fmt: skip
    u = torch.randn(2, 4, 90)
    expected = torch.stack([b.step(u[..., t]) for t in range(60)], -1)
    a.run(torch.randn(2, 4, 33))
    a.take_back({0: 0, 1: 0})
    assert torch.equal(torch.cat([a.run(u[..., :37]), a.run(u[..., 37:60])], -1), expected)
    new = a.generate(u[..., 60], 20)
    x = u[..., 60]
    for t in range(20):
        x = b.step(x)
        assert torch.equal(new[..., t], x)
    a.crop(75), b.crop(75)
    assert torch.equal(a.step(u[..., 0]), b.step(u[..., 0]))


def test_other_filters_and_endless_streams(impl):
    h = torch.randn(4, 60) / 8
    u = torch.randn(2, 4, 700)
    endless = ff.FutureFillCache(h, 2, None, impl=impl, state_dtype=torch.bfloat16, rollback=3)
    y = torch.stack([endless.step(u[..., t]) for t in range(400)], -1)
    saved = endless.state_dict()
    endless.crop(397)
    endless.run(u[..., 397:400])
    twin = ff.FutureFillCache(h, 2, None, impl=impl, state_dtype=torch.bfloat16, rollback=3)
    twin.load_state_dict(saved)
    rest = endless.run(u[..., 400:])
    assert torch.equal(twin.run(u[..., 400:]), rest)
    exact = ff.causal_conv(u, h)
    torch.testing.assert_close(torch.cat([y, rest], -1), exact, rtol=0, atol=0.06)

    cache = ff.FutureFillCache(h, 2, 90, impl=impl, state_dtype=torch.bfloat16)
    other = torch.randn(4, 60) / 8
    cache.run(u[..., :41])
    cache.set_filters(other)
    y = cache.run(u[..., 41:90])
    exact = ff.causal_conv(u[..., :90], other)[..., 41:]
    torch.testing.assert_close(y, exact, rtol=0, atol=0.06)


@pytest.mark.parametrize("base", [1, 4, 48])
def test_an_endless_stream_of_one_tap_leaps(impl, base):
    """No level closes its block, which is the whole window."""
    h, u = torch.randn(3, 1), torch.randn(1, 3, 1300)
    cache = ff.FutureFillCache(
        h, 1, None, plan=ff.Plan(None, (base,), 1), impl=impl, rollback=2, state_dtype=HALF[0]
    )
    period = cache.plan.window.end
    y = [cache.run(u[..., : period - 1])]
    y += [cache.step(u[..., t])[..., None] for t in range(period - 1, period + 3)]
    cache.crop(period + 1)
    y[-2:] = [cache.run(u[..., period + 1 :])]
    assert torch.allclose(torch.cat(y, -1), h * u, rtol=1e-6, atol=1e-6)


def test_what_it_holds(impl):
    """Two bytes a position, and the open block; the table and nbytes count all of it."""
    plan = ff.Plan(8192, (32, 64, 128, 256, 512, 1024, 2048, 4096))
    h = torch.randn(64, 8192)
    cache = ff.FutureFillCache(
        h, 2, 8192, plan=plan, impl=impl, state_dtype=torch.bfloat16, memory="small"
    )
    memory = cache.memory()
    assert cache.state.ring.dtype is torch.bfloat16
    assert memory.per_row <= 2.2
    assert memory.rows["open_block"] == 4 * 2 * 64 * plan.open_slots
    assert memory.nbytes == cache.nbytes
    rounded = ff.FutureFillCache(
        h, 2, 8192, plan=plan, impl=impl, state_dtype=torch.float16, memory="small",
        filters_dtype=torch.bfloat16,
    )  # fmt: skip
    assert rounded.memory().per_filter <= 3.1


def test_refusals(impl):
    h = torch.randn(2, 40)
    for half in HALF:
        with pytest.raises(TypeError, match=rf"torch\.float64, got {half}"):
            ff.FutureFillCache(h.double(), 1, 40, impl=impl, state_dtype=half)
        slack = ff.Plan(40, (4, 8), slack_from=8)
        with pytest.raises(ValueError, match=rf"slack, .* got {half}"):
            ff.FutureFillCache(h, 1, 40, plan=slack, impl=impl, state_dtype=half)


def test_models(impl):
    """A whole model's caches take it, and a Decoder's tokens are those of its cache."""
    model = ff.nn.load_model()
    prompt = torch.tensor([list(b"def f(")])
    options = {"impl": impl, "state_dtype": torch.bfloat16}
    decoder = ff.Decoder(model, 1, 24, **options)
    new = decoder(prompt)
    cache = ff.DecodingCache(model, 1, 24, fused=False, **options)
    with torch.no_grad():
        logits, ids = model(prompt, cache=cache)[:, -1:], []
        for _ in range(24):
            ids.append(int(logits.argmax()))
            logits = model(torch.tensor([[ids[-1]]]), cache=cache)
    assert ids == new[0].tolist()
