"""The one way this suite times anything: variants in turns, medians of paired ratios."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

_COLD_BYTES = 64 << 20


@dataclass(frozen=True)
class Times:
    """Samples of one variant, in seconds; sample ``i`` of two variants were taken in one turn."""

    seconds: tuple[float, ...]

    def quantile(self, q: float) -> float:
        """Nearest-rank quantile, 0 <= q <= 1."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    def ratio(self, other: Times) -> float:
        """Median over the turns of this time over the other's."""
        return statistics.median(
            a / b for a, b in zip(self.seconds, other.seconds, strict=True) if b > 0
        )

    def __mul__(self, weight: float) -> Times:
        return Times(tuple(weight * s for s in self.seconds))

    def __add__(self, other: Times) -> Times:
        return Times(tuple(a + b for a, b in zip(self.seconds, other.seconds, strict=True)))


def measure(
    variants: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 1,
    clock: str = "auto",
    cold: bool = False,
    before: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Times]:
    """Time every variant ``repeats`` times, one after the other in every turn.

    clock: "cpu", wall time around the call; "events", CUDA events on the current stream; "graph",
    CUDA events around the replay of a CUDA graph captured from the call; "auto", events where CUDA
    is there and the CPU clock otherwise. warmup: untimed calls of each. cold: write 64 MiB between
    calls, so that nothing is left in the caches. before: untimed preparation of every call.
    Raises ValueError for an unknown clock, RuntimeError for a CUDA clock without CUDA.
    """
    if clock not in ("auto", "cpu", "events", "graph"):
        raise ValueError(f"unknown clock {clock!r}; expected auto, cpu, events or graph")
    cuda = torch.cuda.is_available()
    if clock == "auto":
        clock = "events" if cuda else "cpu"
    if clock != "cpu" and not cuda:
        raise RuntimeError(f"clock={clock!r} needs a CUDA device")
    prepare = before or {}
    device = "cpu" if clock == "cpu" else "cuda"
    scratch = torch.empty(_COLD_BYTES if cold else 0, dtype=torch.uint8, device=device)
    calls = dict(variants)
    for name, call in variants.items():
        for _ in range(warmup):
            prepare.get(name, _nothing)()
            call()
        if clock == "graph":
            calls[name] = _captured(call)
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in calls.items():
            prepare.get(name, _nothing)()
            if cold:
                scratch.fill_(1)
            found[name].append(_wall(call) if clock == "cpu" else _events(call))
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}


def step_times(step: Callable[[int], object], steps: int) -> Times:
    """The wall time of each of ``steps`` calls ``step(t)``, for p99 and the worst token."""
    clock, seconds = time.perf_counter, [0.0] * steps
    for t in range(steps):
        start = clock()
        step(t)
        seconds[t] = clock() - start
    return Times(tuple(seconds))


def weighted(parts: Sequence[tuple[float, Times]]) -> Times:
    """``sum weight * time`` turn by turn: a whole from its sampled parts."""
    total = parts[0][1] * parts[0][0]
    for weight, times in parts[1:]:
        total = total + times * weight
    return total


def _nothing() -> None:
    pass


def _wall(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _events(call: Callable[[], object]) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) * 1e-3


def _captured(call: Callable[[], object]) -> Callable[[], object]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
