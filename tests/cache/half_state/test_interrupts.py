"""A call on a state of 16 bits that is stopped anywhere leaves nothing."""

from __future__ import annotations

import itertools

import pytest
import torch

from bench.campaign.interrupts import Interrupt, interrupted

from .caches import caches, same, steps


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


def counted(counts, name, function):
    """The function, and how often it has been called."""

    def call(*args):
        counts[name] += 1
        return function(*args)

    return call


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
