"""When the sums that a token begins with are launched: once per token, before its first layer."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.implementations.select import IMPLEMENTATIONS
from tests.recording import SideStreams

LAYERS = 2


@pytest.fixture
def cache(launches, monkeypatch):
    """A cache of an implementation that sums history in a launch of its own."""
    recorder = IMPLEMENTATIONS["recorder"]

    def make_history(state):
        return lambda rows: launches.append(("history", None if rows is None else rows.tolist()))

    monkeypatch.setattr(recorder, "make_history", make_history)
    return ff.FutureFillCache(
        torch.ones(LAYERS, 3, 8).unbind(), 2, 8, impl="recorder", rollback=None
    )


def step(cache, rows=None):
    for layer in range(LAYERS):
        cache.step(torch.ones(2 if rows is None else len(rows), 3), layer, rows=rows)


def history(launches):
    return [item for item in launches if item[0] != "fill"]


TOKEN = [("history", None), ("step", 0), ("step", 1)]


def test_once_per_token_and_for_its_rows(cache, launches):
    step(cache), step(cache, rows=[1, -1])
    assert history(launches) == [*TOKEN, ("history", [1, -1]), *TOKEN[1:]]


def test_a_caller_may_sum_before(cache, launches):
    cache.sum_history(), cache.sum_history()
    step(cache), step(cache)
    assert history(launches) == [*TOKEN, *TOKEN]
    cache.join_history()
    assert history(launches)[6:] == TOKEN[:1]


def test_on_a_side_stream_it_is_joined_by_the_first_layer(cache, launches, monkeypatch):
    streams = SideStreams(monkeypatch, launches)
    cache.sum_history(streams.side)
    assert streams.calls == ["side waits for main", ("side", TOKEN[:1])]
    cache.step(torch.ones(2, 3), 0)
    assert streams.calls[2:] == ["main waits for side"]
    cache.step(torch.ones(2, 3), 1)
    assert len(streams.calls) == 3


def test_an_aborted_token_is_summed_again(cache, launches):
    cache.sum_history()
    cache.step(torch.ones(2, 3), 0)
    cache.abort()
    step(cache)
    assert history(launches) == [*TOKEN[:2], *TOKEN]
    clone = cache.clone()
    step(clone)
    assert history(launches)[5:] == TOKEN


def prompted(cache):
    for layer in range(LAYERS):
        cache.prefill(torch.ones(2, 3, 2), layer)


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.crop(1), lambda cache: cache.reset(), lambda cache: cache.reset([0]),
        lambda cache: cache.reorder([1, 0]), prompted,
    ],
    ids=["crop", "reset", "reset of a row", "reorder", "prefill"],
)  # fmt: skip
def test_sums_are_of_no_use_after_rows_have_changed(cache, launches, change):
    step(cache), step(cache)
    cache.sum_history()
    change(cache)
    launches.clear()
    step(cache)
    assert history(launches) == TOKEN


def test_sums_wait_for_fills_and_find_no_earlier_stream(cache, launches, monkeypatch):
    streams = SideStreams(monkeypatch, launches)
    cache._fills.join = lambda: launches.append("fills joined")
    cache.sum_history()
    assert launches == ["fills joined", TOKEN[0]]
    assert not streams.calls
    step(cache)
    cache.reset()
    cache.sum_history()
    assert not cache.state.ring.any()


def test_there_are_no_sums_inside_a_token(cache):
    cache.step(torch.ones(2, 3), 0)
    with pytest.raises(ValueError, match="sum_history needs a finished token, but layer 1"):
        cache.sum_history()
    cache.abort()
    cache.begin_token()
    with pytest.raises(ValueError, match="sum_history needs finish_token or abort"):
        cache.sum_history()


@torch.no_grad()
def test_implementations_whose_step_is_one_pass_sum_nothing(impl):
    if impl in ("cuda", "triton"):
        pytest.skip(f"{impl} sums a token's history in a launch of its own")
    cache = ff.FutureFillCache(torch.ones(3, 8), 2, 8, impl=impl)
    ring = cache.state.ring.clone()
    cache.sum_history(), cache.join_history()
    assert torch.equal(cache.state.ring, ring)
