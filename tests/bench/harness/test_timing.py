"""Times: quantiles, turns, and the clocks of a GPU that is not there."""

from __future__ import annotations

import contextlib
import itertools
from functools import partial

import pytest
import torch

from bench.harness import timing


def test_times():
    a, b = timing.Times((1.0, 2.0, 9.0)), timing.Times((2.0, 4.0, 3.0))
    assert a.ratio(b) == 0.5
    assert a.p50 == 2.0
    assert timing.weighted([(2.0, a), (1.0, b)]).seconds == (4.0, 8.0, 21.0)
    assert timing.Times(tuple(range(1, 101))).quantile(0.99) == 99


def test_variants_are_timed_in_turns():
    order = []
    times = timing.measure(
        {name: lambda name=name: order.append(name) for name in "ab"},
        repeats=3,
        warmup=0,
        clock="cpu",
    )
    assert order == list("ababab")
    assert {len(t.seconds) for t in times.values()} == {3}


class FakeGpu:
    """Records what the CUDA clocks ask of torch.cuda; a call takes 2 ms on its events."""

    def __init__(self, monkeypatch):
        self.log = log = []
        ticks = itertools.count()

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = next(ticks)
                log.append("record")

            def synchronize(self):
                log.append("synchronize")

            def elapsed_time(self, other):
                assert other.at == self.at + 1
                return 2.0  # milliseconds

        class Graph:
            def replay(self):
                log.append("replay")

        @contextlib.contextmanager
        def capture(graph):
            log.append("capture")
            yield
            log.append("captured")

        empty = torch.empty
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", capture)
        monkeypatch.setattr(torch, "empty", lambda *a, device, **k: log.append(device) or empty(*a))


def test_cuda_clocks_with_a_stand_in(monkeypatch):
    """Events around every call, or around the replay of what was captured once."""
    gpu = FakeGpu(monkeypatch)
    call = partial(gpu.log.append, "call")
    times = timing.measure({"a": call}, repeats=2, clock="auto")
    timed = ["record", "call", "record", "synchronize"]
    assert gpu.log == ["cuda", "call", *timed, *timed]
    assert times["a"].seconds == (2e-3, 2e-3)
    gpu.log.clear()
    times = timing.measure({"a": call}, repeats=1, clock="graph")
    assert gpu.log[:4] == ["cuda", "call", "capture", "call"]
    assert gpu.log[4:] == ["captured", "record", "replay", "record", "synchronize"]
    assert times["a"].p50 == 2e-3


@pytest.mark.parametrize("clock", ["sundial", "graph"])
def test_clocks_that_are_not_there(clock):
    if clock == "graph" and torch.cuda.is_available():
        return
    with pytest.raises((ValueError, RuntimeError), match=clock):
        timing.measure({"a": lambda: None}, repeats=1, clock=clock)


def test_step_times():
    times = timing.step_times(lambda t: None, 200)
    assert len(times.seconds) == 200
    assert 0 <= times.p50 <= times.quantile(0.99) <= max(times.seconds)
