"""States that are not loaded into a model's cache, and the way back that is not there."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from tests.bad_calls.refusals import bytes_of, expect_same_bytes, refusal
from tests.decoding.models import make

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def without(state, name):
    return {key: x for key, x in state.items() if key != name}


def short(state, part):
    return next(name for name in state if name.startswith("short.") and name.endswith(part))


REFUSED = {
    "no state": (lambda c, s: None, "state", "state_dict", "NoneType"),
    "nothing": (lambda c, s: {}, "seen"),
    "a part too few": (lambda c, s: without(s, "caches.1.inputs"), "keys"),
    "a part too many": (lambda c, s: {**s, "more": IDS}, "more"),
    "seen": (lambda c, s: {**s, "seen": torch.zeros(3, dtype=torch.bool)}, "seen", "(2,)"),
    "seen is no tensor": (lambda c, s: {**s, "seen": None}, "seen"),
    "filters": (
        lambda c, s: {**s, "caches.0.fingerprint": 2 * s["caches.0.fingerprint"]}, "filters",
    ),
    "positions": (
        lambda c, s: {**s, "caches.1.positions": torch.tensor([3, 2])},
        "caches.1", "positions",
    ),
    "short inputs": (lambda c, s: {**s, short(s, ".inputs"): IDS}, "inputs", "(2, 3)"),
    "short taps": (
        lambda c, s: {**s, short(s, ".taps"): s[short(s, ".taps")] + 1}, "same taps", "short.",
    ),
    "no short taps": (lambda c, s: without(s, short(s, ".taps")), "taps"),
}  # fmt: skip


def model_cache():
    model = make("long-conv")
    cache = ff.DecodingCache(model, 2, 10, rollback=None)
    model(IDS, cache=cache)
    for t in range(3):
        model(IDS[:, t : t + 1], cache=cache)
    return model, cache


def everything(cache):
    return {name: x.clone() for name, x in cache.state_dict().items()}


@pytest.mark.parametrize("case", REFUSED)
@torch.no_grad()
def test_a_state_that_is_refused(case):
    change, *parts = REFUSED[case]
    model, cache = model_cache()
    before = everything(cache)
    given = change(cache, dict(before))
    with refusal(*parts):
        cache.load_state_dict(given)
    after = everything(cache)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    other, untouched = model_cache()
    found = model(IDS[:, :1], cache=cache), other(IDS[:, :1], cache=untouched)
    assert torch.equal(*found)


@torch.no_grad()
def test_positions_before_a_load_are_not_there():
    _, cache = model_cache()
    cache.load_state_dict(cache.state_dict())
    before = everything(cache)
    with refusal("length >= 3 for row 0"):
        cache.crop(1)
    after = everything(cache)
    assert all(torch.equal(before[name], after[name]) for name in before)


INSIDE = {
    "reorder": lambda c: c.reorder([1, 0]),
    "crop": lambda c: c.crop(0),
    "state_dict": lambda c: c.state_dict(),
    "reset": lambda c: c.reset([0]),
}


@pytest.mark.parametrize("case", INSIDE)
@torch.no_grad()
def test_a_call_of_the_cache_inside_a_call_of_the_model(case):
    """It is refused, and the model's call is taken back with it."""
    model, cache = model_cache()
    hook = model.mixers[1].register_forward_pre_hook(lambda *_: INSIDE[case](cache))
    with refusal("needs a finished call of the model"):
        model(IDS[:, :1], cache=cache)
    hook.remove()
    other, untouched = model_cache()
    torch.testing.assert_close(model(IDS[:, :1], cache=cache), other(IDS[:, :1], cache=untouched))


@torch.no_grad()
def test_bytes_of_every_stream_stay():
    """What the other tables compare is what a state dict leaves out too."""
    _, cache = model_cache()
    streams = [bytes_of(stream) for stream in cache.caches]
    with refusal():
        cache.load_state_dict({})
    for before, stream in zip(streams, cache.caches, strict=True):
        expect_same_bytes(before, bytes_of(stream))
