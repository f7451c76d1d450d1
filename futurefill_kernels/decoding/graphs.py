"""CUDA graphs of a token: what speaks against one, and how a call becomes one.

Positions live on the device, so nothing in a graph depends on the token; a future fill depends only
on finished tokens, so the host launches it between replays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from ..planning.capabilities import CAPABILITIES
from .model_cache import DecodingCache
from .sampling import Sampler, graph_key


def cannot_capture(cache: DecodingCache, device: torch.device) -> list[str]:
    """Why a token of this cache cannot be captured; empty when it can. device: of the model."""
    reasons = []
    if device.type != "cuda":
        reasons.append(f"CUDA graphs need a CUDA device, the model is on {device}")
    if cache.ranks is not None and not cache.ranks.capturable():
        reasons.append("the sums over ranks are not NCCL's, which alone a graph can hold")
    if not cache.capabilities.capturable:
        able = ", ".join(name for name, c in CAPABILITIES.items() if c.capturable)
        reasons.append(
            f"impl={cache.impl!r} reads positions on the host, which would be baked into the "
            f"graph; expected one of {able}"
        )
    return reasons


def cannot_capture_sampler(sampler: Sampler) -> list[str]:
    """Why the sampler runs outside of a graph; empty when it can be part of one."""
    if graph_key(sampler) is not None:
        return []
    name = getattr(sampler, "__name__", type(sampler).__name__)
    return [
        f"sampler={name} may read the host or wait for the device, so it runs after the graph; "
        "expected greedy or a RandomSampler"
    ]


@contextmanager
def uncached_casts() -> Iterator[None]:
    """Inside, autocast keeps no copies of weights: they end with its context, a graph would not."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


class Graphs(Protocol):
    """How calls are captured. side: a stream for work beside the captured one, if there is one."""

    side: torch.cuda.Stream | None

    def warm(self, call: Callable[[], None]) -> None:
        """Run the call once, so that a capture finds kernels loaded and handles made."""
        ...

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        """``replay``: repeats on the device what the call launches; nothing runs yet."""
        ...


class CudaGraphs:
    """`Graphs` of one CUDA device, which share their memory: one is replayed at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self.side: torch.cuda.Stream | None = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, call: Callable[[], None]) -> None:
        """On the stream of the capture: libraries keep handles and workspaces for each stream."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            call()
        current.wait_stream(self._stream)

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        """Only what this thread does can break the capture. RuntimeError where the call did."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                call()
        except Exception as error:
            raise RuntimeError(
                "the token could not be captured as a CUDA graph (cuda_graph=False decodes without "
                f"one): {error}"
            ) from error
        return graph.replay
