"""States that are saved, copied and loaded again, and whose they may be."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import futurefill_kernels as ff
from tests.cache.streams import Stream

TOTAL, PROMPT = 40, 12


def make(impl, prompt=PROMPT, steps=9, rollback=0):
    stream = Stream(
        3, batch=2, channels=6, groups=3, layers=2, taps=30, total=TOTAL, dtype=torch.float32
    )
    cache = stream.cache(TOTAL - PROMPT, (4, 8, 16), impl, rollback)
    if prompt:
        stream.prefill(cache, 0, prompt)
    for t in range(prompt, prompt + steps):
        stream.step(cache, t)
    return stream, cache


def saved_by_torch(cache):
    file = io.BytesIO()
    torch.save(cache, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c)), saved_by_torch],
    ids=["copy", "deepcopy", "pickle", "torch.save"],
)
def test_copies_go_their_own_way(impl, duplicate):
    stream, cache = make(impl)
    other = duplicate(cache)
    assert (other.impl, other.plan, other.dtype) == (cache.impl, cache.plan, cache.dtype)
    for c in (other, cache):
        for t in range(PROMPT + 9, TOTAL):
            stream.step(c, t)
        assert stream.error() < 2e-6


@pytest.mark.parametrize(("rollback", "sizes"), [(None, (5,)), (0, (4, 8, 16))])
@pytest.mark.parametrize("taken", [0, 5])
def test_a_half_read_prompt_goes_on_after_a_load(impl, taken, rollback, sizes):
    stream, cache = make(impl, taken, 0, rollback)
    other = stream.cache(TOTAL - PROMPT, sizes, impl, rollback)
    for t in range(3):  # what it held before means nothing
        stream.step(other, t)
    other.load_state_dict(cache.state_dict())
    stream.prefill(other, taken, PROMPT)
    for t in range(PROMPT, TOTAL):
        stream.step(other, t)
    assert stream.error() < 2e-6
    other.load_state_dict(cache.state_dict())
    if taken:
        assert torch.equal(other.state.ring[..., 0, :], cache.state.ring[..., 0, :])


@pytest.mark.parametrize("change", ["filters", "skip", "one tap"])
def test_a_state_of_other_filters_is_refused(impl, change):
    stream, cache = make(impl)
    h, skip = [x.clone() for x in stream.h], stream.skip.clone()
    if change == "filters":
        h[1] = h[1].flip(0)
    elif change == "one tap":
        h[0][2, 7] += 0.1
    else:
        skip[1] *= 1.01
    other = ff.FutureFillCache(
        h, 2, TOTAL - PROMPT, channels=6, skip=skip, impl=impl, plan=cache.plan
    )
    layer = {"filters": "filters of layer 1", "one tap": "filters of layer 0"}.get(
        change, "skip of layer 1"
    )
    with pytest.raises(ValueError, match=f"same filters and skip, got others: {layer}$"):
        other.load_state_dict(cache.state_dict())
    assert other.positions.tolist() == [0, 0]


def test_filters_that_differ_by_rounding_are_the_same(impl):
    stream, cache = make(impl)
    h = [x * (1 + 1e-6 * torch.randn_like(x)) for x in stream.h]
    other = ff.FutureFillCache(
        h, 2, TOTAL - PROMPT, channels=6, skip=stream.skip, impl=impl, plan=cache.plan
    )
    other.load_state_dict(cache.state_dict())
    assert other.positions.tolist() == [9, 9]


def test_a_state_of_pending_outputs_is_of_one_plan(impl):
    stream, cache = make(impl)
    saved = cache.state_dict()
    with pytest.raises(ValueError, match=r"block sizes \[28, 0, 5\], got \[28, 0, 4, 8, 16\]"):
        stream.cache(TOTAL - PROMPT, (5,), impl).load_state_dict(saved)
    with pytest.raises(ValueError, match="expected a state that holds prompt_fill"):
        stream.cache(TOTAL - PROMPT, (4, 8, 16), impl, None).load_state_dict(saved)
    _, kept = make(impl, rollback=None)
    other = stream.cache(TOTAL - PROMPT, (5,), impl)
    other.load_state_dict(kept.state_dict())  # its prompt_fill fits every plan
    for t in range(PROMPT + 9, TOTAL):
        stream.step(other, t)
    assert stream.error() < 2e-6


@pytest.mark.parametrize("rollback", [None, 11, 28])
def test_rows_are_cropped_one_by_one(impl, rollback):
    stream, cache = make(impl, steps=17, rollback=rollback)
    expected = cache.clone()
    cache.crop([6, 30])
    assert cache.positions.tolist() == [6, 17]
    for layer in range(2):
        u = stream.u[layer, 1:, :, PROMPT + 17]
        assert torch.equal(cache.step(u, layer, rows=[1]), expected.step(u, layer, rows=[1]))
    for t in range(PROMPT + 6, TOTAL):
        for layer in range(2):
            at = (layer, slice(1), slice(None), t)
            y = cache.step(stream.u[at], layer, pre=stream.pre[at], post=stream.post[at], rows=[0])
            stream.got[layer, 0, :, t] = y[0]
    assert torch.allclose(stream.got[:, 0].double(), stream.expected[:, 0], atol=1e-5)
