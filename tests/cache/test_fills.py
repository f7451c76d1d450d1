"""Fills: what is launched after a token, for whom, and on which CUDA stream."""

from __future__ import annotations

import torch

import futurefill_kernels as ff
from futurefill_kernels.cache.fills import Fills
from tests.recording import SideStreams


def on_the_side(h, batch, streams):
    """A cache of 8 positions whose fills run on the side stream; the check wants a CUDA device."""
    plan = ff.Plan(h.shape[1], (2, 4))
    cache = ff.FutureFillCache(h, batch, h.shape[1], plan=plan, impl="recorder", rollback=None)
    cache._fills = Fills(cache.state, cache.implementation, streams.side)
    return cache


@torch.no_grad()
def test_launches_per_token_of_24_layers(launches):
    """24 steps in layer order, then at most one fill, which serves every layer."""
    torch.manual_seed(1)
    plan = ff.Plan(64, (4, 8, 16, 32))
    cache = ff.FutureFillCache(
        [torch.randn(8, 64) for _ in range(24)], 2, 64, plan=plan, impl="recorder"
    )
    for t in range(64):
        launches.clear()
        for layer in range(24):
            cache.step(torch.randn(2, 8), layer)
        cache.launch_fills()
        assert launches[:24] == [("step", layer) for layer in range(24)]
        due = next(iter(plan.levels_at(t)), None)
        assert launches[24:] == ([] if due is None else [("fill", plan.levels[due].block)])


def test_side_streams_of_some_rows_and_of_clones(launches, monkeypatch):
    """A clone waits for a fill that is under way; the rows of a fill outlive it."""
    streams = SideStreams(monkeypatch, launches)
    cache = on_the_side(torch.randn(3, 8), 2, streams)
    streams.kept.clear()
    for _ in range(2):
        cache.step(torch.randn(1, 3), rows=[1])
    assert [x.tolist() for x in streams.kept] == [[1]]
    streams.calls.clear()
    other = cache.clone()
    assert streams.calls == ["main waits for side"]
    assert any(x is other.state.ring for x in streams.kept)
    u = torch.randn(1, 3)
    assert torch.equal(cache.step(u, rows=[1]), other.step(u, rows=[1]))


def test_fills_on_a_side_stream_are_joined(launches, monkeypatch):
    """The side stream waits for the step, and the next step for the side stream."""
    streams = SideStreams(monkeypatch, launches)
    h, u = torch.randn(3, 8), torch.randn(3, 8)
    cache = on_the_side(h, 1, streams)
    y = []
    for t in range(8):
        streams.calls.clear()
        y.append(cache.step(u[None, :, t]))
        joins = ["main waits for side"] if t and t % 2 == 0 else []
        fill = ("side", [("fill", 4 if t == 3 else 2)])
        fills = ["side waits for main", fill] if t in (1, 3, 5) else []
        assert streams.calls == joins + fills
    torch.testing.assert_close(torch.stack(y, 2), ff.causal_conv(u[None], h))


def test_whoever_touches_the_state_waits_for_the_side_stream(launches, monkeypatch):
    streams = SideStreams(monkeypatch, launches)
    cache = on_the_side(torch.randn(3, 8), 1, streams)
    saved = cache.state_dict()
    for touch in (
        cache.reset,
        cache.state_dict,
        cache.clone,
        lambda: cache.reorder([0]),
        lambda: cache.crop(1),
        lambda: cache.load_state_dict(saved),
        lambda: cache.prefill(torch.randn(1, 3, 2)),
        cache.begin_token,
    ):
        cache.reset()
        for _ in range(2):
            cache.step(torch.randn(1, 3))
        streams.calls.clear()
        touch()
        assert streams.calls[:1] == ["main waits for side"]
