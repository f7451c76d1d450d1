"""Captures on CUDA, with stand-ins for torch.cuda that write down what is asked of them."""

from __future__ import annotations

import contextlib

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.decoding import graphs
from futurefill_kernels.decoding.sampling import RandomSampler, greedy
from tests.decoding.models import make

CUDA = torch.device("cuda", 1)


class Cuda:
    """Streams, graphs and what happens on them, in order."""

    def __init__(self, monkeypatch):
        self.events = []
        self.current = self.Stream(self.events, "current")
        names = iter(("capture", "side"))
        monkeypatch.setattr(
            torch.cuda, "Stream", lambda device: self.Stream(self.events, next(names))
        )
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self.Graph)
        monkeypatch.setattr(torch.cuda, "graph", self.capture)

    class Stream:
        def __init__(self, events, name):
            self.events, self.name = events, name

        def wait_stream(self, other):
            self.events.append(f"{self.name} waits for {other.name}")

    class Graph:
        replay = "the replay of a graph"

    @contextlib.contextmanager
    def on(self, stream):
        self.events.append(f"on {stream.name}")
        yield
        self.events.append(f"off {stream.name}")

    @contextlib.contextmanager
    def capture(self, graph, *, pool, stream, capture_error_mode):
        self.events.append((pool, stream.name, capture_error_mode))
        yield
        self.events.append("captured")


@pytest.fixture
def cuda(monkeypatch):
    return Cuda(monkeypatch)


def test_a_call_is_warmed_on_the_stream_of_its_capture(cuda):
    made = graphs.CudaGraphs(CUDA)
    made.warm(lambda: cuda.events.append("call"))
    assert cuda.events == [
        "capture waits for current", "on capture", "call", "off capture",
        "current waits for capture",
    ]  # fmt: skip


def test_graphs_share_memory_and_mind_only_their_own_thread(cuda):
    made = graphs.CudaGraphs(CUDA)
    for _ in range(2):
        assert made.capture(lambda: cuda.events.append("call")) == "the replay of a graph"
    first, second = cuda.events[0], cuda.events[3]
    assert cuda.events == [first, "call", "captured", second, "call", "captured"]
    assert first == second
    assert first[1:] == ("capture", "thread_local")
    assert made.side.name == "side"


def test_a_call_that_cannot_be_captured_says_what_to_do(cuda):
    def call():
        raise ValueError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match=r"cuda_graph=False .*: operation not permitted"):
        graphs.CudaGraphs(CUDA).capture(call)


def test_reasons_against_a_capture():
    cache = ff.DecodingCache(make("stu"), 1, 8, impl="reference")
    device, host_reads = graphs.cannot_capture(cache, torch.device("cpu"))
    assert device == "CUDA graphs need a CUDA device, the model is on cpu"
    assert "impl='reference' reads positions on the host" in host_reads
    assert graphs.cannot_capture(cache, CUDA) == [host_reads]
    assert graphs.cannot_capture_sampler(greedy) == []
    assert graphs.cannot_capture_sampler(RandomSampler(0.3)) == []
    assert len(graphs.cannot_capture_sampler(lambda logits: logits.argmax(-1))) == 1
