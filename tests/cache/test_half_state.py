"""A state of 16 bits: rounded once for each level, and otherwise what a float32 one is."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch

import futurefill_kernels as ff
from bench.campaign.interrupts import Interrupt, interrupted
from futurefill_kernels.implementations.select import IMPLEMENTATIONS, cannot_run
from futurefill_kernels.state.open_block import whole_slots
from tests.implementations import plain_gpu

#: Half a unit in the last place of 1.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
HALF = list(ROUNDING)
#: Smallest level, more than one product of it, blocks of one and of no power of two, no level.
PLANS = [(4, 8, 16), (3, 12), (1, 2, 32), (64, 128), (150,)]


@pytest.fixture(
    params=[*IMPLEMENTATIONS, pytest.param("plain gpu", marks=pytest.mark.slow)]
)  # fmt: skip
def impl(request, device, monkeypatch):
    """Those that keep such a state on the device, and what GPUs share of it."""
    if request.param == "plain gpu":
        monkeypatch.setitem(IMPLEMENTATIONS, "plain gpu", plain_gpu.implementation())
        return request.param
    reasons = cannot_run(device, torch.float32, ring_dtype=HALF[0])[request.param]
    if reasons:
        pytest.skip(f"{request.param}: {'; '.join(reasons)}")
    return request.param


def caches(impl, sizes, count=1, **options):
    """Equal caches of two layers, three rows and D = 6 on G = 3, and their filters."""
    torch.manual_seed(0)
    h = [torch.randn(3, taps) / taps**0.5 for taps in (40, 200)]
    options = {"channels": 6, "state_dtype": torch.bfloat16, "dtype": torch.float32} | options
    found = [
        ff.FutureFillCache(h, 3, 150, plan=ff.Plan(150, sizes), impl=impl, **options)
        for _ in range(count)
    ]
    return h, found


def steps(cache, u, rows=None):
    """u: (B, D, T) for both layers. Returns (layers, B, D, T)."""
    tokens = [
        torch.stack([cache.step(u[..., t], layer, rows=rows) for layer in range(2)])
        for t in range(u.shape[-1])
    ]
    return torch.stack(tokens, -1)


def same(a, b):
    """Two caches are in the same state, bit for bit."""
    a.launch_fills(), b.launch_fills()
    places = a.state.positions.tolist()
    assert places == b.state.positions.tolist()
    assert torch.equal(whole_slots(a.state, places), whole_slots(b.state, places))
    assert torch.equal(a.state.kept, b.state.kept)


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


@pytest.mark.parametrize("layers_done", [0, 1])
def test_a_transform_that_stops_before_a_layer_is_taken_back(impl, monkeypatch, layers_done):
    """Rows are built again from the ring, where a layer that has not run has no open inputs yet."""
    _, (cache, plain) = caches(impl, (4, 16), 2, rollback=None)
    u = torch.randn(3, 6, 120)
    for c in (cache, plain):
        steps(c, u[..., :7])
    for layer in range(layers_done):
        cache.prefill(u[..., 7:107], layer)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as inside:
        inside.setattr(cache._prefill, "_chunk", stopped)
        with pytest.raises(KeyboardInterrupt):
            cache.prefill(u[..., 7:107], layers_done)
    cache.abort()
    same(cache, plain)
    assert torch.equal(steps(cache, u[..., 7:20]), steps(plain, u[..., 7:20]))


@pytest.mark.parametrize("finished", [0, 1])
def test_an_interrupt_inside_a_call_of_steps_and_transforms(impl, monkeypatch, finished):
    """Row 0 waits for its prompt, row 1 is stepped, row 2 goes by a transform: wherever the call is
    stopped, in its first layer or the second, it leaves nothing.

    finished: layers that are done before.
    """
    _, (cache, plain) = caches(impl, (4, 8, 16), 2, rollback=None)
    u = torch.randn(3, 6, 60)
    for c in (cache, plain):
        steps(c, u[[2], :, :5], [2])
        steps(c, u[[1], :, :21], [1])
    monkeypatch.setattr(
        "futurefill_kernels.cache.prompt.steps_are_cheaper",
        lambda state, rows, position, width: position == 21,
    )
    way = {"_chunk": 0, "run": 0}
    for owner, name in ((cache._prefill, "_chunk"), (cache._prefill._chunks, "run")):
        monkeypatch.setattr(owner, name, counted(way, name, getattr(owner, name)))
    part = u[..., 22:35]
    stops = 0
    for after in itertools.count(0, 13):
        try:
            for layer in range(finished):
                cache.prefill(part, layer)
            with interrupted(after):
                cache.prefill(part, finished)
        except Interrupt:
            stops += 1
        else:
            break
        if cache.positions.tolist() == [0, 21, 5]:
            cache.abort()
        else:  # it came when all was done
            cache.take_back({0: 0, 1: 21, 2: 5})
        assert cache.positions.tolist() == [0, 21, 5]
        cache.state_dict()  # clears what a prompt that was taken back has written
        same(cache, plain)
    assert stops > 10
    assert min(way.values()) > 1
    for layer in range(finished + 1, 2):
        cache.prefill(part, layer)
    for layer in range(2):
        plain.prefill(part, layer)
    same(cache, plain)
    assert torch.equal(steps(cache, u[..., 40:50]), steps(plain, u[..., 40:50]))


def counted(counts, name, function):
    """The function, and how often it has been called."""

    def call(*args):
        counts[name] += 1
        return function(*args)

    return call


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


@pytest.mark.cpu_only("counts the calls of Python functions")
def test_an_interrupt_inside_fills_of_rows_at_different_ends(impl):
    """Both open blocks turn once, however often the fills begin."""

    def stream():
        cache = caches(impl, (1, 5), rollback=None)[1][0]
        u = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
        for layer in range(2):
            cache.step(u[0], layer)
        cache.reset([0])
        for layer in range(2):
            cache.prefill(u[:1, 0, :, None], layer, rows=[0])
        for layer in range(2):
            cache.step(u[1], layer)
        return cache, u[0]

    cache, u = stream()
    expected = [cache.step(u, layer) for layer in range(2)]
    for calls in itertools.count():
        cache, u = stream()
        try:
            with interrupted(calls):
                cache.step(u, 0)
        except Interrupt:
            assert [torch.equal(cache.step(u, n), expected[n]) for n in range(2)] == [True, True]
        else:
            break
    assert calls > 5
