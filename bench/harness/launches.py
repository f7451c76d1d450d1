"""What the host does for a token, and what it launches: two things that no clock of a GPU shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from .timing import wall_seconds


class HostOnly:
    """Times a loop of graph replays without their work: what is left is the host's.

    Graphs made inside ``watching()`` replay an empty graph instead while ``seconds`` measures.
    """

    def __init__(self) -> None:
        self.graphs = 0
        self._empty: torch.cuda.CUDAGraph | None = None
        self._active = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Graphs whose ``replay`` is taken inside are those that are emptied."""
        replay, seen = torch.cuda.CUDAGraph.replay, set()

        def watched(graph: torch.cuda.CUDAGraph) -> None:
            seen.add(id(graph))
            self.graphs = len(seen)
            empty = self._empty
            if empty is None or not self._active:
                replay(graph)
            else:
                replay(empty)

        torch.cuda.CUDAGraph.replay = watched
        try:
            yield
        finally:
            torch.cuda.CUDAGraph.replay = replay

    def seconds(
        self, device: torch.device, whole: Callable[[], object], first: Callable[[], object]
    ) -> float:
        """Wall time of ``whole`` beyond that of ``first``, replays being empty."""
        if self.graphs:
            self._empty = empty_graph(device)
        self._active = True
        try:
            return wall_seconds(device, whole) - wall_seconds(device, first)
        finally:
            self._active = False


def empty_graph(device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph of one small node."""
    graph, number = torch.cuda.CUDAGraph(), torch.zeros(1, device=device)
    with torch.cuda.graph(graph):
        number.add_(1)
    return graph


def device_launches(call: Callable[[], object]) -> int:
    """Kernels, copies and fills of memory that a call gives a GPU, nodes of graphs included.

    0 where the profiler may not look.
    """
    kinds = torch.profiler.ProfilerActivity
    if kinds.CUDA not in torch.profiler.supported_activities():
        return 0
    with torch.profiler.profile(activities=[kinds.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())
