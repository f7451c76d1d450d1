"""Times: quantiles, turns, and the clocks of a GPU that is not there."""

from __future__ import annotations

import contextlib
import itertools
import time
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
        device=CPU,
        repeats=3,
        warmup=0,
        replayed="b",
    )
    assert order == list("ababab")
    assert {len(t.seconds) for t in times.values()} == {3}


def test_parts_are_timed_in_turns():
    order = []
    times = timing.measure_in_parts(
        {name: lambda part, name=name: order.append(f"{name}{part}") for name in "ab"},
        2,
        repeats=3,
        before={"a": lambda: order.append("clear")},
    )
    assert order == ["clear", "a0", "b0", "a1", "b1"] * 4
    assert {len(t.seconds) for t in times.values()} == {3}


def test_processor_time_leaves_out_what_others_have():
    try:
        timing.use_processor_time(True)
        found = timing.measure({"sleep": lambda: time.sleep(0.2)}, device=CPU, repeats=1, warmup=0)
    finally:
        timing.use_processor_time(False)
    assert found["sleep"].p50 < 0.1


def test_cold_calls_come_after_their_preparation():
    order, read = [], torch.Tensor.sum

    def reading(x):
        order.append(("read", x.nbytes))
        return read(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "sum", reading)
        timing.measure(
            {"a": lambda: order.append("call")},
            device=CPU,
            repeats=1,
            warmup=0,
            cold=True,
            before={"a": lambda: order.append("before")},
        )
    assert order == ["before", ("read", 128 << 20), "call"]


CPU = torch.device("cpu")


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

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", capture)
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        zeros = torch.zeros
        monkeypatch.setattr(
            torch, "zeros", lambda *a, device, **k: log.append(str(device)) or zeros(*a, **k)
        )


def test_cuda_clocks_with_a_stand_in(monkeypatch):
    """Events around every call, or around the replay of what was captured once."""
    gpu, device = FakeGpu(monkeypatch), torch.device("cuda", 0)
    call = partial(gpu.log.append, "call")
    times = timing.measure({"a": call}, device=device, repeats=2)
    timed = ["record", "call", "record", "synchronize"]
    assert gpu.log == ["cuda:0", "call", *timed, *timed]
    assert times["a"].seconds == (2e-3, 2e-3)
    gpu.log.clear()
    times = timing.measure({"a": call}, device=device, repeats=1, replayed=["a"])
    assert gpu.log[:4] == ["cuda:0", "call", "capture", "call"]
    assert gpu.log[4:] == ["captured", "record", "replay", "record", "synchronize"]
    assert times["a"].p50 == 2e-3


def test_cold_calls_are_replayed_between_reads(monkeypatch):
    """Two graphs, of reads alone and of reads and calls, whose difference is the calls'."""
    gpu, device = FakeGpu(monkeypatch), torch.device("cuda", 0)
    call = partial(gpu.log.append, "call")
    monkeypatch.setattr(torch.Tensor, "sum", lambda x: gpu.log.append("read"))
    times = timing.measure_cold({"a": call}, device=device, repeats=1, inner=2)
    pair, timed = ["read", "call"], ["record", "replay", "record", "synchronize"]
    reads, both = ["capture", "read", "read", "captured"], ["capture", *pair, *pair, "captured"]
    assert gpu.log == [*["cuda:0"] * 2, "read", "read", *reads, *pair, *pair, *both, *timed, *timed]
    assert times["a"].seconds == (0.0,)  # the stand-in's replays all take as long


def test_steps_between_events(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    times = timing.step_times(torch.device("cuda", 0), lambda t: gpu.log.append(t), 3)
    assert gpu.log == ["record", 0, "record", 1, "record", 2, "record", "synchronize"]
    assert times.seconds == (2e-3, 2e-3, 2e-3)


def test_step_times():
    times = timing.step_times(CPU, lambda t: None, 200)
    assert len(times.seconds) == 200
    assert 0 <= times.p50 <= times.quantile(0.99) <= max(times.seconds)
