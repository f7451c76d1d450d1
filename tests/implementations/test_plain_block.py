"""Many steps of all rows without Python: bits and books as of single steps, or not at all."""

from __future__ import annotations

import signal

import pytest
import torch

from futurefill_kernels import FutureFillCache, Plan, native
from tests.cache.snapshot import snapshot

REASON = native.plain_step_unavailable_reason()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

LENGTH = 40


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cpu").to(dtype)


def make(*, batch=2, channels=6, dtype=torch.float32, plan=(4, 8, 24), layers=1, rollback=0):
    """A cache whose rows have taken a step, and what each block gave."""
    torch.manual_seed(0)
    h = [randn(3, 30, dtype=dtype) for _ in range(layers)]
    cache = FutureFillCache(
        h, batch, LENGTH, channels=channels, plan=Plan(LENGTH, plan), impl="cpu", rollback=rollback
    )
    for layer in range(layers):
        cache.step(randn(batch, channels, dtype=dtype), layer)
    return cache, record(cache)


def record(cache):
    given, plain = [], cache._plain

    def recorded(function):
        def call(*arguments):
            given.append(function(*arguments))
            return given[-1]

        return call

    cache._plain = plain._replace(run=recorded(plain.run), generate=recorded(plain.generate))
    return given


def steps(cache, u, pre=None, post=None):
    """What single steps give."""
    at = [[None if x is None else x[..., t] for x in (u, pre, post)] for t in range(u.shape[2])]
    return torch.stack([cache.step(u_t, pre=a, post=b) for u_t, a, b in at], -1)


@pytest.mark.parametrize("plan", [(4, 8, 24), (1, 3, 6, 18), (16, 32), (40,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("batch", "channels"), [(1, 3), (2, 6), (3, 33)])
def test_same_bits_and_books(batch, channels, dtype, plan):
    cache, given = make(batch=batch, channels=channels, dtype=dtype, plan=plan, rollback=9)
    other, calls = cache.clone(), 1
    for t, n in enumerate((1, 7, 2, 13, 9)):
        u, pre, post = (randn(batch, channels, n, dtype=dtype) for _ in range(3))
        pre, post = (pre, None, pre)[t % 3], (None, post, post)[t % 3]
        if t % 2:  # of any strides
            u = u.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        calls += 1
        y = cache.run(u, pre=pre, post=post)
        assert y is given[-1]
        assert y.is_contiguous()
        assert torch.equal(y, steps(other, u, pre, post))
        assert (cache.taken, cache.calls) == (other.taken, calls)
        assert all(map(torch.equal, snapshot(cache), snapshot(other)))
    cache.crop(24)
    other.crop(24)
    u = randn(batch, channels, LENGTH - 24, dtype=dtype)
    assert torch.equal(cache.run(u), steps(other, u))
    assert cache.full
    with pytest.raises(ValueError, match="at most 0 more positions"):
        cache.run(u[..., :1])


@pytest.mark.parametrize("next_input", ["identity", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_outputs_become_inputs(dtype, next_input):
    cache, given = make(dtype=dtype)
    other, u = cache.clone(), randn(6, 2, dtype=dtype).T
    x, expected = u, []
    for _ in range(17):
        y = other.step(x)
        x = y.relu() if next_input == "relu" else y
        expected.append(x)
    new = cache.generate(u, 17, next_input)
    assert new is given[-1]
    assert torch.equal(new, torch.stack(expected, -1))
    assert all(map(torch.equal, snapshot(cache), snapshot(other)))
    assert cache.calls == 2


@pytest.mark.parametrize("plan", [(4, 8, 24), (2, 4, 8, 16, 32), (40,)], ids=str)
@pytest.mark.parametrize("start", [1, 3, 4, 7, 8, 16, 23])
@pytest.mark.parametrize("n", [1, 4, 13])
def test_the_newest_block_is_taken_back(start, n, plan):
    cache, given = make(plan=plan)
    cache.step(randn(1, 6), rows=[1])  # rows at their own positions: 1 and 2
    if start > 1:
        cache.run(randn(2, 6, start - 1))
    cache.launch_fills()
    before, u, taken = snapshot(cache), randn(2, 6, n), cache.taken
    y = cache.run(u)
    assert y is given[-1]
    cache.take_back(dict(enumerate(taken)))
    assert all(map(torch.equal, snapshot(cache), before))
    assert cache.taken == taken
    assert torch.equal(cache.run(u), y)


def test_a_block_that_is_not_the_newest_stays():
    cache, _ = make()
    u = randn(2, 6, 5)
    cache.run(u)
    taken, before = cache.taken, snapshot(cache)
    cache.step(u[..., 0])
    cache.take_back(dict(enumerate(taken)))  # the step
    assert cache.taken == taken == [6, 6]
    assert all(map(torch.equal, snapshot(cache)[:2], before[:2]))
    cache.run(u)
    cache.crop(11)  # no call is the newest any more
    assert not cache._block_is_newest


def test_an_abort_leaves_the_block_before_it():
    cache, _ = make()
    u = randn(2, 6, 5)
    untouched = cache.clone()
    assert torch.equal(cache.run(u), untouched.run(u))
    cache.begin_token()
    cache.abort()
    assert cache.taken == [6, 6]
    assert torch.equal(cache.run(u), untouched.run(u))


UNCOMMON = {
    "a negated view": lambda c, u: c.run(torch._neg_view(-u)),
    "a negated gate": lambda c, u: c.run(u, pre=torch._neg_view(-u), post=torch._neg_view(-u)),
    "a subclass": lambda c, u: c.run(torch.nn.Parameter(u, requires_grad=False)),
    "a negated input": lambda c, u: c.generate(torch._neg_view(-u[..., 0].contiguous()), 3),
}


@pytest.mark.parametrize("call", UNCOMMON.values(), ids=UNCOMMON)
def test_what_is_not_common_goes_through_python(call):
    h, u = randn(3, 30) / 20, randn(2, 6, 4)
    cache = FutureFillCache(h, 2, 400, channels=6, plan=Plan(400, (4, 16)), impl="cpu")
    cache.step(u[..., 0])
    given, other = record(cache), cache.clone()
    other._plain = None
    y = call(cache, u)
    assert given == [None]
    assert torch.equal(y, call(other, u))
    for _ in range(3):  # and the books still serve both ways
        assert torch.equal(cache.run(u), other.run(u))
        assert torch.equal(cache.step(u[..., 0]), other.step(u[..., 0]))
    assert given[-1] is not None
    assert cache.taken == other.taken


@pytest.mark.parametrize("kind", ["layers", "slack", "a prompt"])
def test_streams_that_go_through_python(kind):
    cache, given = make(layers=2 if kind == "layers" else 1)
    if kind == "slack":
        plan = Plan(LENGTH, (2, 6, 12), slack_from=6)
        cache = FutureFillCache(randn(3, 30), 2, LENGTH, channels=6, plan=plan, impl="cpu")
        cache.step(randn(2, 6))
        given = record(cache)
    if kind == "a prompt":
        cache.reset([1])
        cache.prefill(randn(1, 6, 3), rows=[1])
    other, u = cache.clone(), randn(2, 6, 4)
    other._plain = None
    for layer in range(cache.layers):
        assert torch.equal(cache.run(u, layer), other.run(u, layer))
    assert not given


def test_more_than_are_taken_at_once():
    h, u = randn(3, 30) / 20, randn(2, 6, 700)
    cache = FutureFillCache(h, 2, 1600, channels=6, plan=Plan(1600, (4, 16)), impl="cpu")
    cache.step(u[..., 0])
    given, other = record(cache), cache.clone()
    y = cache.run(u, pre=u, post=u)
    assert y is given[-1]
    assert torch.equal(y, steps(other, u, u, u))
    new = cache.generate(u[..., 0], 600)
    assert new is given[-1]
    x = u[..., 0]
    for t in range(600):
        x = other.step(x)
        assert torch.equal(new[..., t], x)
    assert cache.memory().nbytes > other.memory().nbytes  # what takes the call back
    assert cache.calls == 3


class Stopped(Exception):
    """What a signal raises."""


def test_a_signal_between_parts_takes_all_of_them_back():
    length = 1 << 18
    cache = FutureFillCache(randn(16, 30), 1, length, plan=Plan(length, (64,)), impl="cpu")
    cache.step(randn(1, 16))
    cache.launch_fills()
    before, u, asked = snapshot(cache), randn(1, 16, length - 1), []

    def stop(*_):
        asked.append(True)
        raise Stopped

    handler = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Stopped):
            cache.run(u)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert asked == [True]
    assert all(map(torch.equal, snapshot(cache), before))
    assert (cache.taken, cache.calls) == ([1], 1)


REFUSED = {
    "shape": (lambda c, u: c.run(u[:, :5]), ValueError, r"expected u \(B, D, P\)"),
    "gate": (lambda c, u: c.run(u, pre=u[..., :2]), ValueError, "expected pre"),
    "dtype": (lambda c, u: c.run(u.double()), TypeError, "u of dtype"),
    "grad": (lambda c, u: c.run(u, post=u.clone().requires_grad_()), ValueError, "post requires"),
    "room": (lambda c, u: c.run(u.repeat(1, 1, 20)), ValueError, "at most 39 more positions"),
    "layer": (lambda c, u: c.run(u, 1), ValueError, "expected layer 0 of 1, got 1"),
    "no tensor": (lambda c, u: c.run([[[1.0]]]), TypeError, "expected u"),
    "first": (lambda c, u: c.generate(u, 3), ValueError, "expected u_t"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_has_its_message_and_changes_nothing(call, error, message):
    cache, _ = make()
    before = snapshot(cache)
    with pytest.raises(error, match=message):
        call(cache, randn(2, 6, 3))
    assert all(map(torch.equal, snapshot(cache), before))
    assert (cache.taken, cache.calls) == ([1, 1], 1)


def test_an_endless_stream_goes_on():
    h, u = randn(3, 20), randn(1, 3, 400)
    cache = FutureFillCache(h, 1, None, impl="cpu")
    other = cache.clone()
    cache.step(u[..., 0])
    other.step(u[..., 0])
    given = record(cache)
    ys = [cache.run(u[..., t : t + 7]) for t in range(1, 393, 7)]
    assert torch.equal(torch.cat(ys, -1), steps(other, u[..., 1:393]))
    assert sum(y is not None for y in given) > 40
    assert cache.taken == other.taken == [393]
