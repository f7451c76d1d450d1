"""A step of all rows without Python: the same bits and books as through Python, or not at all."""

from __future__ import annotations

import ctypes
import gc
import itertools
import weakref
from dataclasses import dataclass

import pytest
import torch

from futurefill_kernels import FutureFillCache, Plan, native, ops
from futurefill_kernels.implementations import cpu
from tests.cache.snapshot import snapshot

REASON = native.plain_step_unavailable_reason()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

LENGTH = 40
PLANS = [Plan(LENGTH, (4, 8, 24)), Plan(LENGTH, (2, 6, 12), slack_from=6)]


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cpu").to(dtype)


def make(*, batch=2, channels=6, layers=1, dtype=torch.float32, plan=PLANS[0], steps=2):
    """A cache after as many steps as it takes to go without Python, and what each call gave."""
    torch.manual_seed(0)
    h = [randn(3, 30, dtype=dtype) for _ in range(layers)]
    cache = FutureFillCache(h, batch, LENGTH, channels=channels, plan=plan, impl="cpu")
    for _, layer in itertools.product(range(steps), range(layers)):
        cache.step(randn(batch, channels, dtype=dtype), layer)
    given, plain_step = [], cache._plain_step

    def recorded(*arguments):
        given.append(plain_step(*arguments))
        return given[-1]

    cache._plain_step = recorded
    return cache, given


def test_the_third_token_goes_without_python():
    cache, given = make(steps=0)
    for _ in range(4):
        cache.step(randn(2, 6))
    assert [y is None for y in given] == [True, True, False, False]
    assert (cache.calls, cache.taken) == (4, [4, 4])


@pytest.mark.parametrize("plan", PLANS, ids=["", "slack"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("batch", "channels", "layers"), [(1, 3, 1), (2, 6, 3), (3, 33, 2)])
def test_same_bits_and_books(batch, channels, layers, dtype, plan):
    cache, given = make(batch=batch, channels=channels, layers=layers, dtype=dtype, plan=plan)
    other = cache.clone()
    other._plain_step = None
    for t, layer in itertools.product(range(2, LENGTH), range(layers)):
        u, pre, post = (randn(batch, channels, dtype=dtype) for _ in range(3))
        pre, post = (pre, None, pre)[t % 3], (None, post, post)[t % 3]
        out = torch.full_like(u, torch.nan) if t % 2 else None
        y = cache.step(u, layer, pre=pre, post=post, out=out)
        assert y is given[-1]
        assert out is None or y is out
        assert torch.equal(y, other.step(u, layer, pre=pre, post=post))
        assert (cache.taken, cache.calls) == (other.taken, other.calls)
    for a, b in zip(snapshot(cache), snapshot(other), strict=True):
        assert torch.equal(a, b)
    assert cache.full
    with pytest.raises(ValueError, match="all max_new_tokens = 40 are taken"):
        cache.step(randn(batch, channels, dtype=dtype))


UNCOMMON = {
    "some rows": lambda c, u: c.step(u[:1], rows=[1]),
    "all rows": lambda c, u: c.step(u, rows=[0, 1]),
    "strides": lambda c, u: c.step(u.T.contiguous().T),
    "a negated view": lambda c, u: c.step(torch._neg_view(-u)),
    "a negated gate": lambda c, u: c.step(u, pre=torch._neg_view(-u), post=torch._neg_view(-u)),
    "a subclass": lambda c, u: c.step(torch.nn.Parameter(u, requires_grad=False)),
}


@pytest.mark.parametrize("call", UNCOMMON.values(), ids=UNCOMMON)
def test_what_is_not_common_goes_through_python(call):
    cache, given = make()
    other = cache.clone()
    other._plain_step = None
    u = randn(2, 6)
    y = call(cache, u)
    assert given == [None]
    assert torch.equal(y, call(other, u))
    for _ in range(3):  # and the books still serve both ways
        assert torch.equal(cache.step(u), other.step(u))
    assert given[-1] is not None
    assert cache.taken == other.taken


REFUSED = {
    "shape": (lambda c, u: c.step(u[:, :5]), ValueError, r"u_t \(B, D\) = \(2, 6\), got \(2, 5\)"),
    "dtype": (lambda c, u: c.step(u.double()), TypeError, "u_t of dtype torch.float32"),
    "device": (lambda c, u: c.step(u.to("meta")), ValueError, "u_t on cpu, got meta"),
    "grad": (lambda c, u: c.step(u.clone().requires_grad_()), ValueError, "u_t requires grad"),
    "gate": (lambda c, u: c.step(u, pre=u.clone().requires_grad_()), ValueError, "pre requires"),
    "out": (lambda c, u: c.step(u, out=u.clone().requires_grad_()), ValueError, "out requires"),
    "out shape": (lambda c, u: c.step(u, out=u[:1]), ValueError, "expected out"),
    "out negated": (lambda c, u: c.step(u, out=torch._neg_view(u)), ValueError, "negated view"),
    "layer": (lambda c, u: c.step(u, 1), ValueError, "expected layer 0 of 1, got 1"),
    "no tensor": (lambda c, u: c.step([[1.0] * 6] * 2), TypeError, "u_t"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_has_its_message_and_changes_nothing(call, error, message):
    cache, _ = make()
    before = snapshot(cache)
    with pytest.raises(error, match=message):
        call(cache, randn(2, 6))
    assert all(map(torch.equal, snapshot(cache), before))
    assert cache.calls == 2


@pytest.mark.parametrize("name", ["u_t", "pre", "post"])
def test_out_that_overlaps_is_refused(name):
    cache, given = make()
    before = snapshot(cache)
    memory = randn(3, 6)
    arguments = {"u_t": randn(2, 6), name: memory[1:]}
    with pytest.raises(ValueError, match=f"expected out to be {name} itself or apart from it"):
        cache.step(**arguments, out=memory[:2])
    assert given == [None]
    assert all(map(torch.equal, snapshot(cache), before))


@pytest.mark.parametrize("name", ["u_t", "pre", "post"])
def test_out_may_be_an_input(name):
    cache, given = make()
    other = cache.clone()
    for _ in range(5):
        arguments = {key: randn(2, 6) for key in ("u_t", "pre", "post")}
        expected = other.step(**arguments)
        y = cache.step(**arguments, out=arguments[name])
        assert y is arguments[name] is given[-1]
        assert torch.equal(y, expected)


def test_results_are_the_callers():
    cache, _ = make()
    kept = [cache.step(randn(2, 6)) for _ in range(LENGTH - 2)]
    again, given = make()
    torch.manual_seed(0)
    make()  # the same numbers
    for y in kept:
        assert torch.equal(y, again.step(randn(2, 6)))
    assert all(y is not None for y in given)
    assert len({y.untyped_storage().data_ptr() for y in kept}) == len(kept)


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_token_that_stops_between_layers_is_taken_back(fails_at):
    cache, given = make(layers=3)
    untouched = cache.clone()
    u = randn(2, 6)
    for layer in range(fails_at):
        cache.step(u, layer)
        assert given[-1] is not None
    with pytest.raises(ValueError, match=f"expected layer {fails_at} of 3, got {3 - fails_at}"):
        cache.step(u, 3 - fails_at)
    cache.abort()
    for a, b in zip(snapshot(cache), snapshot(untouched), strict=True):
        assert torch.equal(a, b)
    for layer in range(3):
        assert torch.equal(cache.step(u, layer), untouched.step(u, layer))


def test_layer_0_again_takes_the_token_back():
    cache, _ = make(layers=2)
    untouched = cache.clone()
    u, v = randn(2, 6), randn(2, 6)
    cache.step(v, 0)
    for layer in range(2):
        assert torch.equal(cache.step(u, layer), untouched.step(u, layer))
    assert cache.taken == untouched.taken == [3, 3]


def test_a_token_whose_books_another_keeps_goes_through_python():
    cache, given = make()
    cache.begin_token()
    cache.step(randn(2, 6))  # a step of layer 0 takes it back
    assert given == [None]
    assert cache.taken == [3, 3]


@dataclass
class Books:
    plain: int
    layer: int = 0
    open: bool = True


@pytest.mark.parametrize("kind", [Books, dataclass(slots=True)(Books)], ids=["", "slots"])
def test_books_may_be_kept_in_slots_or_a_dictionary(kind):
    cache, books = make(layers=2)[0], kind(3)
    other = cache.clone()
    step = cpu.make_plain_steps(cache.state, cache.dtype, books).step
    for layer, taken in ((0, (3, 1)), (1, (2, 0))):
        u = randn(2, 6)
        assert torch.equal(step(u, layer, None, None, None, None), other.step(u, layer))
        assert (books.plain, books.layer) == taken
    for name, value in {"plain": 0, "layer": 1, "open": False}.items():
        before = getattr(books, name)
        setattr(books, name, value)
        assert step(randn(2, 6), 0, None, None, None, None) is None
        setattr(books, name, before)


def test_the_function_keeps_what_it_needs_and_no_more(monkeypatch):
    unbound = []
    unbind = ops.unbind
    monkeypatch.setattr(ops, "unbind", lambda stream: (unbound.append(stream), unbind(stream)))
    cache = make()[0]
    books, plain_step = (
        weakref.ref(cache),
        cpu.make_plain_steps(cache.state, cache.dtype, cache._positions).step,
    )
    u = randn(2, 6)
    expected = cache.clone().step(u)
    del cache
    gc.collect()
    assert books() is None
    assert torch.equal(plain_step(u, 0, None, None, None, None), expected)
    before = len(unbound)
    del plain_step
    gc.collect()
    assert len(unbound) == before + 1


def test_inputs_of_another_dtype():
    cache, old = make()
    cache.widen(torch.bfloat16)
    other = cache.clone()
    other._plain_step = None
    u = randn(2, 6, 5, dtype=torch.bfloat16)
    y = torch.stack([other.step(u[..., t]) for t in range(5)], -1)
    assert torch.equal(cache.clone().run(u), y)
    for t in range(5):
        assert torch.equal(cache.step(u[..., t]), y[..., t])
    assert not old
    with pytest.raises(TypeError, match=r"u_t of dtype torch\.bfloat16"):
        cache.step(u[..., 0].float())


def test_a_wrong_count_of_arguments():
    plain_step = make()[0]._plain.step
    with pytest.raises(TypeError, match="expected u, layer, pre, post, rows and out"):
        plain_step(randn(2, 6))


def test_a_wanted_gradient_where_none_is_made():
    cache, given = make()
    u = randn(2, 6)
    expected = cache.clone().step(u)
    with torch.no_grad():
        y = cache.step(u.clone().requires_grad_())
    assert y is given[-1]
    assert torch.equal(y, expected)
    assert not y.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_results_are_tensors_like_others(mode):
    cache, given = make(dtype=torch.bfloat16)
    with mode():
        y, like = cache.step(randn(2, 6, dtype=torch.bfloat16)), torch.zeros(1, device="cpu")
    assert y is given[-1]
    assert type(y) is torch.Tensor
    assert (y.shape, y.stride(), y.dtype) == ((2, 6), (6, 1), torch.bfloat16)
    assert (y.is_inference(), y.is_leaf) == (like.is_inference(), like.is_leaf)
    assert y.untyped_storage().nbytes() == 24


@pytest.mark.parametrize(("channels", "plan", "expected"), [
    (6, PLANS[0], {0: True, 4: True, 24: True}),
    (6, PLANS[1], {0: False}),  # with slack a share may be of any size
    (2000, PLANS[0], {1: True, 4: True, 8: False, 24: False, 25: True}),
    (40000, PLANS[0], {1: False}),
])  # fmt: skip
def test_pythons_lock_is_kept_for_what_is_short(channels, plan, expected):
    cache = FutureFillCache(randn(1, 30), 1, LENGTH, channels=channels, plan=plan, impl="cpu")
    bound = ops.bind(cache.state, randn(1, channels))
    is_short = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int64)(
        native.addresses_of_steps()[1]
    )
    for position, short in expected.items():
        cache.state.positions.fill_(position)
        assert is_short(bound, 0) == short
    assert is_short(bound, 1) == (channels < 40000)
    ops.unbind(bound)


def test_another_torch():
    x = randn(1)
    module = native.plain_step()
    with pytest.raises(AttributeError, match="_cdata"):
        module.check(x, x, 1)
    with pytest.raises(RuntimeError, match="not laid out as expected"):
        module.check(x, x, x)
    module.check(x, torch._neg_view(x), x.clone().requires_grad_())


def test_a_cache_without_the_module(monkeypatch):
    monkeypatch.setattr(native, "plain_step", lambda: None)
    cache = FutureFillCache(torch.ones(1, 4), 1, 4, impl="cpu")
    ys = [cache.step(torch.ones(1, 1)).item() for _ in range(4)]
    assert ys == [1, 2, 3, 4]
