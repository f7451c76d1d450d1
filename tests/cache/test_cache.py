"""FutureFillCache: any split of a sequence gives one parallel convolution."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import futurefill_kernels as ff
from futurefill_kernels import FutureFillCache, Plan
from futurefill_kernels.implementations.select import IMPLEMENTATIONS, cannot_run
from futurefill_kernels.state.tensors import state_nbytes
from tests.oracles import TOLERANCE, relative_error

PLANS = [
    (1,),
    (4,),
    (1, 2, 4, 8),
    (2, 6, 12),
    (3, 12, 24),
    (8, 24, 96),
    (16, 32, 64),
    (5, 35),
    (200,),
    ((2, 6, 12), 6),
    ((1, 2, 4, 8, 16), 2),
    ((4, 8, 32), 8),
    ((3, 15), 15),
]


def plan_of(length, sizes):
    """A plan from a row of PLANS: block sizes, or (block sizes, slack_from)."""
    if isinstance(sizes[0], tuple):
        return Plan(length, sizes[0], slack_from=sizes[1])
    return Plan(length, sizes)


class Stream:
    """Random filters, inputs and gates, and the parallel convolution they must reproduce."""

    def __init__(self, seed, *, batch, channels, groups, layers, taps, total, dtype=torch.float64):
        g = torch.Generator().manual_seed(seed)

        def randn(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

        self.h = [randn(groups, taps) / taps**0.5 for _ in range(layers)]
        self.skip = randn(layers, channels)
        self.u, self.pre, self.post = (randn(layers, batch, channels, total) for _ in range(3))
        self.layers, self.dtype = layers, dtype
        self.expected = torch.stack(
            [
                self.post[i].double()
                * ff.causal_conv(
                    self.pre[i].double() * self.u[i], self.h[i].double(), self.skip[i].double()
                )
                for i in range(layers)
            ]
        )
        self.got = torch.zeros_like(self.expected)

    def cache(self, length, sizes, impl):
        _, batch, channels, _ = self.u.shape
        return FutureFillCache(
            self.h,
            batch,
            length,
            channels=channels,
            skip=self.skip.to(self.dtype),
            plan=None if sizes is None else plan_of(length, sizes),
            impl=impl,
        )

    def prefill(self, cache, start, stop):
        for i in range(self.layers):
            at = (i, slice(None), slice(None), slice(start, stop))
            self.got[at] = cache.prefill(
                self.u[at], i, pre=self.pre[at], post=self.post[at]
            ).double()

    def step(self, cache, t):
        for i in range(self.layers):
            at = (i, ..., t)
            self.got[at] = cache.step(self.u[at], i, pre=self.pre[at], post=self.post[at]).double()

    def error(self, start=0, stop=None):
        return relative_error(self.got[..., start:stop], self.expected[..., start:stop])


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_split_is_the_parallel_convolution(name, data):
    if cannot_run(torch.device("cpu"), torch.float64)[name]:
        pytest.skip(f"{name} does not run here in float64")
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
    cache = stream.cache(length, draw(st.sampled_from(PLANS)), name)
    t = 0
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
        elif action == "crop" and taken:
            keep = draw(st.integers(0, taken - 1))
            cache.crop(keep)
            t -= taken - keep
            stream.step(cache, t)
            t += 1
        elif action == "move" and taken:
            state = cache.state_dict()
            cache = stream.cache(length, draw(st.sampled_from(PLANS)), name)
            cache.load_state_dict(state)
            stream.step(cache, t)
            t += 1
        else:
            for _ in range(min(draw(st.integers(1, 30)), prompt + length - t)):
                stream.step(cache, t)
                t += 1
    assert stream.error() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("sizes", PLANS)
def test_every_dtype_with_float32_state(impl, sizes, dtype):
    stream = Stream(
        1, batch=2, channels=12, groups=4, layers=2, taps=130, total=30 + 100, dtype=dtype
    )
    cache = stream.cache(100, sizes, impl)
    stream.prefill(cache, 0, 30)
    for t in range(30, 130):
        stream.step(cache, t)
    assert stream.error() < TOLERANCE[dtype]


@pytest.mark.parametrize("sizes", [(2, 6, 12), ((2, 4, 12), 4)])
def test_rows_have_their_own_positions(impl, sizes):
    length = 60
    stream = Stream(2, batch=4, channels=9, groups=3, layers=2, taps=90, total=20 + length)
    cache = stream.cache(length, sizes, impl)
    lengths = [20, 3, 11, 1]
    for i in range(2):
        at = (i, ..., slice(0, 20))
        y = cache.prefill(
            stream.u[at], i, pre=stream.pre[at], post=stream.post[at], lengths=lengths
        )
        for b, n in enumerate(lengths):
            stream.got[i, b, :, :n] = y[b, :, :n]
    taken = list(lengths)
    generator = torch.Generator().manual_seed(0)
    while True:
        active = [b for b in range(4) if taken[b] < lengths[b] + length]
        if not active:
            break
        chosen = [b for b in active if torch.rand((), generator=generator) < 0.6]
        rows = [*chosen, -1]
        for i in range(2):
            u, pre, post = (
                torch.stack([x[i, b, :, taken[b]] if b >= 0 else x[i, 0, :, 0] for b in rows])
                for x in (stream.u, stream.pre, stream.post)
            )
            y = cache.step(u, i, pre=pre, post=post, rows=rows)
            assert (y[-1] == 0).all()
            for r, b in enumerate(chosen):
                stream.got[i, b, :, taken[b]] = y[r]
        for b in chosen:
            taken[b] += 1
    for b, n in enumerate(lengths):
        whole = slice(0, n + length)
        assert relative_error(stream.got[:, b, :, whole], stream.expected[:, b, :, whole]) < 1e-12


@pytest.mark.parametrize("sizes", [(2, 6, 12), ((2, 4, 12), 4)])
def test_a_freed_row_starts_anew(impl, sizes):
    stream = Stream(3, batch=2, channels=4, groups=4, layers=1, taps=40, total=40)
    cache = stream.cache(40, sizes, impl)
    for t in range(13):
        cache.step(stream.u[0, :, :, t])
    cache.reset([1])
    assert cache.positions.tolist() == [13, 0]
    cache.prefill(stream.u[0, 1:, :, :5], rows=[1])
    for t in range(5, 30):
        y = cache.step(stream.u[0, 1:, :, t], rows=[1])
        expected = ff.causal_conv(stream.u[0, 1:, :, : t + 1], stream.h[0], stream.skip[0])
        assert relative_error(y, expected[..., -1]) < 1e-12
    y = cache.step(stream.u[0, :1, :, 13], rows=[0])
    expected = ff.causal_conv(stream.u[0, :1, :, :14], stream.h[0], stream.skip[0])
    assert relative_error(y, expected[..., -1]) < 1e-12


@pytest.mark.parametrize("sizes", [(2, 6, 12), ((2, 4, 12), 4)])
def test_reorder_and_clone(impl, sizes):
    stream = Stream(4, batch=3, channels=4, groups=2, layers=1, taps=64, total=70)
    cache = stream.cache(60, sizes, impl)
    cache.prefill(stream.u[0, :, :, :10])
    for t in range(10, 31):
        cache.step(stream.u[0, :, :, t])
    branch = cache.clone()
    branch.reorder([2, 2, 0])
    order = stream.u[0][[2, 2, 0]]
    for t in range(31, 70):
        y, z = cache.step(stream.u[0, :, :, t]), branch.step(order[..., t])
        torch.testing.assert_close(z, y[[2, 2, 0]], rtol=0, atol=0)


def test_restored_state_continues_bit_for_bit(impl):
    stream = Stream(
        5, batch=2, channels=5, groups=5, layers=2, taps=99, total=120, dtype=torch.float32
    )
    for sizes in PLANS:
        cache = stream.cache(100, sizes, impl)
        stream.prefill(cache, 0, 20)
        for t in range(20, 77):
            stream.step(cache, t)
        restored = stream.cache(100, sizes, impl)
        restored.load_state_dict(cache.state_dict())
        for t in range(77, 120):
            stream.step(cache, t)
            first = stream.got[..., t].clone()
            stream.step(restored, t)
            assert torch.equal(first, stream.got[..., t])


def test_state_moves_between_implementations():
    stream = Stream(6, batch=2, channels=8, groups=2, layers=1, taps=64, total=64)
    names = [
        name
        for name, reasons in cannot_run(torch.device("cpu"), torch.float64).items()
        if not reasons
    ]
    caches = {name: stream.cache(64, (4, 16), name) for name in names}
    cache = caches["reference"]
    for t in range(64):
        if t % 10 == 9:
            other = caches[names[t // 10 % len(names)]]
            other.load_state_dict(cache.state_dict())
            cache = other
        stream.step(cache, t)
    assert stream.error() < 1e-12


@pytest.mark.parametrize("sizes", [(8,), (4, 16), (32, 64, 128, 256)])
@pytest.mark.parametrize(("channels", "groups"), [(5, 5), (32, 2), (48, 48)])
def test_bytes_follow_the_formula_and_not_the_prompt(impl, sizes, channels, groups):
    h = torch.randn(groups, 4096)
    found = set()
    for prompt in (0, 1000, 10000):
        cache = FutureFillCache(
            h,
            2,
            512,
            channels=channels,
            skip=torch.ones(channels),
            plan=Plan(512, sizes),
            impl=impl,
        )
        if prompt:
            cache.prefill(torch.randn(2, channels, prompt))
        cache.step(torch.randn(2, channels))
        found.add(cache.nbytes)
        assert not cache._open_prompts
    assert len(found) == 1
    if impl != "reference":  # its prepared filters are the taps themselves
        expected = state_nbytes(cache.plan, cache._state.layout, layers=1, batch_size=2, skip=True)
        assert found == {expected}


def test_a_step_allocates_nothing(impl):
    if impl == "reference":
        pytest.skip("plain torch allocates its intermediate results")
    cache = FutureFillCache(torch.randn(24, 300), 2, 300, plan=Plan(300, (4, 8, 32)), impl=impl)
    u, out = torch.randn(2, 24), torch.zeros(2, 24)
    cache.step(u, out=out)
    with torch.profiler.profile(profile_memory=True) as profile:
        for _ in range(200):
            cache.step(u, out=out)
    grown = [e.key for e in profile.key_averages() if e.self_cpu_memory_usage > 0]
    assert grown == []


def _snapshot(cache):
    state = cache._state
    return [x.clone() for x in (state.ring, state.kept, state.prompt_fill, state.positions)] + [
        cache.positions
    ]


ZEROS = torch.zeros(2, 4)


def _load(cache, **changes):
    cache.load_state_dict({**cache.state_dict(), **changes})


BAD_CALLS = {
    "shape": (lambda c: c.step(ZEROS[:, :3]), ValueError, r"u_t \(B, D\) = \(2, 4\), got \(2, 3\)"),
    "dtype": (lambda c: c.step(ZEROS.double()), TypeError, "u_t of dtype torch.float32"),
    "device": (lambda c: c.step(ZEROS.to("meta")), ValueError, "u_t on cpu, got meta"),
    "grad": (lambda c: c.step(ZEROS.clone().requires_grad_()), ValueError, "autograd-free"),
    "pre": (lambda c: c.step(ZEROS, pre=ZEROS[:, :3]), ValueError, "expected pre"),
    "post": (lambda c: c.step(ZEROS, post=ZEROS[:1]), ValueError, "expected post"),
    "out": (lambda c: c.step(ZEROS, out=ZEROS[:1]), ValueError, "expected out"),
    "out strides": (lambda c: c.step(ZEROS, out=torch.zeros(4, 2).T), ValueError, "contiguous"),
    "layer": (lambda c: c.step(ZEROS, layer=1), ValueError, "expected layer 0 of 2, got 1"),
    "rows": (lambda c: c.step(ZEROS[:1], rows=[2]), ValueError, r"rows in -1 .. 1, got \[2\]"),
    "twice": (lambda c: c.step(ZEROS, rows=[1, 1]), ValueError, "each row once"),
    "count": (lambda c: c.step(ZEROS, rows=[1]), ValueError, r"\(1, 4\), got \(2, 4\)"),
    "prompt": (lambda c: c.prefill(ZEROS), ValueError, r"expected u \(B, D, P\)"),
    "empty": (lambda c: c.prefill(torch.zeros(2, 4, 0)), ValueError, "P >= 1"),
    "room": (lambda c: c.prefill(torch.zeros(2, 4, 9)), ValueError, "at most 7 more positions"),
    "lengths": (
        lambda c: c.prefill(torch.zeros(2, 4, 3), lengths=[4, 1]),
        ValueError,
        r"lengths \(2,\) in 1 .. 3",
    ),
    "crop": (lambda c: c.crop(-1), ValueError, "length >= 0, got -1"),
    "reorder": (lambda c: c.reorder([0]), ValueError, r"rows \(B,\) = \(2,\), got \(1,\)"),
    "reset": (lambda c: c.reset([5]), ValueError, r"rows in 0 .. 1, got \[5\]"),
    "keys": (lambda c: c.load_state_dict({}), ValueError, "expected state with keys"),
    "state dtype": (
        lambda c: _load(c, inputs=c.state_dict()["inputs"].double()),
        TypeError,
        "expected inputs of dtype torch.float32, got torch.float64",
    ),
    "state shape": (
        lambda c: _load(c, prompt_fill=torch.zeros(2, 2, 4, 9)),
        ValueError,
        r"expected prompt_fill \(layers, B, D, N\) = \(2, 2, 4, 10\)",
    ),
    "state positions": (
        lambda c: _load(c, positions=torch.tensor([3, 11])),
        ValueError,
        r"positions in 0 .. 10, got \[3, 11\]",
    ),
    "state inputs": (
        lambda c: _load(c, positions=torch.tensor([4, 2])),
        ValueError,
        r"expected inputs \(layers, B, D, n\) = \(2, 2, 4, 4\), got \(2, 2, 4, 3\)",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_rejected_call_changes_nothing(impl, case):
    call, error, message = BAD_CALLS[case]
    torch.manual_seed(0)
    cache = FutureFillCache(
        [torch.randn(4, 20), torch.randn(4, 9)], 2, 10, plan=Plan(10, (2, 4)), impl=impl
    )
    for _ in range(3):
        for layer in range(2):
            cache.step(torch.randn(2, 4), layer)
    before = _snapshot(cache)
    with pytest.raises(error, match=message):
        call(cache)
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(cache), strict=True))
    for layer in range(2):
        cache.step(torch.randn(2, 4), layer)
    assert cache.positions.tolist() == [4, 4]


def test_a_plan_is_made_for_the_implementation_that_runs(monkeypatch):
    module, asked = sys.modules[FutureFillCache.__module__], []

    def make_plan(*sizes, impl, **options):
        asked.append(impl)
        return ff.make_plan(*sizes, impl=impl, **options)

    monkeypatch.setattr(module, "make_plan", make_plan)
    cache = FutureFillCache(torch.ones(4, 64), 1, 64)
    assert asked == [cache.impl]


def test_no_step_beyond_max_new_tokens(impl):
    cache = FutureFillCache(torch.ones(2, 3), 1, 2, impl=impl)
    cache.step(torch.ones(1, 2))
    cache.step(torch.ones(1, 2))
    before = _snapshot(cache)
    with pytest.raises(ValueError, match="all max_new_tokens = 2 are taken"):
        cache.step(torch.ones(1, 2))
    assert all(torch.equal(a, b) for a, b in zip(before, _snapshot(cache), strict=True))


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
    ("change", "error", "message"),
    [
        ({"filters": []}, ValueError, "non-empty sequence"),
        ({"filters": [3]}, TypeError, r"filters\[0\] to be a tensor, got int"),
        ({"filters": torch.zeros(4)}, ValueError, r"filters\[0\] \(G, L\)"),
        ({"filters": torch.zeros(0, 4)}, ValueError, "not empty"),
        ({"filters": [torch.ones(2, 3), torch.ones(3, 3)]}, ValueError, "G = 2 rows like layer 0"),
        ({"filters": torch.full((2, 3), float("nan"))}, ValueError, "finite, got NaN"),
        ({"filters": torch.ones(2, 3, requires_grad=True)}, ValueError, "autograd-free"),
        ({"filters": torch.ones(2, 3, dtype=torch.int32)}, TypeError, "float32, bfloat16"),
        ({"channels": 3}, ValueError, "multiple of G = 2, got 3"),
        ({"batch_size": 0}, ValueError, "batch_size >= 1, got 0"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens >= 1, got 0"),
        ({"skip": torch.ones(3)}, ValueError, r"skip \(D,\) = \(2,\)"),
        ({"plan": Plan(9, (2,))}, ValueError, "length max_new_tokens = 8, got 9"),
        ({"dtype": torch.int8}, TypeError, "expected dtype to be one of"),
        ({"impl": "fast"}, ValueError, "unknown impl 'fast'; expected one of 'auto'"),
    ],
)
def test_bad_construction_is_named(change, error, message):
    arguments = {"filters": torch.ones(2, 3), "batch_size": 1, "max_new_tokens": 8, **change}
    with pytest.raises(error, match=message):
        FutureFillCache(**arguments)


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
    cache = FutureFillCache(h, 1, length, plan=Plan(length, sizes, slack_from=slack_from))
    y = torch.empty(length, 1, 3)
    for t in range(taken):
        cache.step(u[..., t], out=y[t])
    # a restored stream continues in the middle of its firings
    restored = FutureFillCache(h, 1, length, plan=cache.plan)
    restored.load_state_dict(cache.state_dict())
    z = torch.empty(length - taken, 1, 3)
    for t in range(taken, length):
        cache.step(u[..., t], out=y[t])
        restored.step(u[..., t], out=z[t - taken])
    assert torch.equal(z, y[taken:])
    expected = ff.causal_conv(u.double(), h.double())
    assert relative_error(y.permute(1, 2, 0), expected) < 1e-6


def test_state_of_a_plan_with_slack(impl):
    plan = Plan(200, (4, 8, 32), slack_from=8)
    cache = FutureFillCache(torch.randn(24, 200), 2, 200, plan=plan, impl=impl)
    if impl != "reference":
        assert cache.nbytes == state_nbytes(plan, cache._state.layout, layers=1, batch_size=2)


def test_spectra_in_other_dtypes_are_refused_where_there_are_none():
    h = torch.randn(4, 8)
    with pytest.raises(RuntimeError, match="reference keeps no filter spectra in bfloat16"):
        ff.FutureFillCache(h, 1, 8, spectra_dtype=torch.bfloat16)
    for impl in ("cpu", "reference"):
        with pytest.raises(RuntimeError, match=f"{impl}.*keeps no filter spectra in bfloat16"):
            ff.FutureFillCache(h, 1, 8, impl=impl, spectra_dtype=torch.bfloat16)
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(TypeError, match="expected spectra_dtype to be None, float32, bfloat16"):
            ff.FutureFillCache(h, 1, 8, spectra_dtype=dtype)
    assert ff.FutureFillCache(h, 1, 8, spectra_dtype=torch.float32).nbytes
    assert ff.FutureFillCache(h.double(), 1, 8, spectra_dtype=torch.float64).nbytes
