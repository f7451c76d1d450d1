"""The one way this suite times anything: variants in turns, medians of paired ratios."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

#: What times calls on a CPU, see `use_processor_time`.
_clock: Callable[[], float] = time.perf_counter

_COLD_BYTES = 128 << 20  # more than any GPU's second-level cache


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


def use_processor_time(use: bool) -> None:
    """Whether a CPU's times are those that the calling thread had a processor, not the wall's: the
    same on a quiet machine, and on one whose cores others use too the part that is the call's own.
    """
    global _clock
    _clock = time.thread_time if use else time.perf_counter


def measure(
    variants: Mapping[str, Callable[[], object]],
    *,
    device: torch.device,
    repeats: int,
    warmup: int = 1,
    replayed: Collection[str] = (),
    cold: bool = False,
    before: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Times]:
    """Time every variant ``repeats`` times, one after the other in every turn.

    device: whose time it is. On a CPU the wall time of the call, see `use_processor_time`; on a GPU
    what lies between two CUDA events around the call, or, for names in ``replayed``, around the
    replay of a CUDA graph captured from it: then the host's launches are not timed. warmup:
    untimed calls of each. cold: before every call, after ``before``, 128 MiB are read, so that
    nothing is left in the caches. before: untimed preparation of every call.
    """
    gpu = device.type == "cuda"
    prepare = before or {}
    scratch = torch.zeros(_COLD_BYTES // 4 if cold else 0, dtype=torch.float32, device=device)
    calls = dict(variants)
    for name, call in variants.items():
        for _ in range(warmup):
            prepare.get(name, _nothing)()
            call()
        if gpu and name in replayed:
            prepare.get(name, _nothing)()
            calls[name] = captured(call, device)
    found: dict[str, list[float]] = {name: [] for name in variants}
    clock = partial(_events, device) if gpu else _wall
    for _ in range(repeats):
        for name, call in calls.items():
            prepare.get(name, _nothing)()
            if cold:
                scratch.sum()
            found[name].append(clock(call))
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}


def measure_cold(
    variants: Mapping[str, Callable[[], object]],
    *,
    device: torch.device,
    repeats: int,
    inner: int = 4,
) -> dict[str, Times]:
    """Time calls that find nothing in a GPU's caches and wait for no host: a graph reads 128 MiB
    before each of ``inner`` calls, and the time of a graph that only reads is taken off.

    On a CPU plain calls. A sample is a mean over the calls of one replay.
    """
    if device.type != "cuda":
        return measure(variants, device=device, repeats=repeats)
    scratch = torch.zeros(_COLD_BYTES // 4, dtype=torch.float32, device=device)

    def graph(call: Callable[[], object]) -> Callable[[], object]:
        def calls() -> None:
            for _ in range(inner):
                scratch.sum()
                call()

        return calls

    reads = "128 MiB"
    graphs = {reads: graph(_nothing)} | {name: graph(call) for name, call in variants.items()}
    found = measure(graphs, device=device, repeats=repeats, replayed=graphs)
    read = found.pop(reads) * -1.0
    return {name: (times + read) * (1 / inner) for name, times in found.items()}


def measure_in_parts(
    variants: Mapping[str, Callable[[int], object]],
    parts: int,
    *,
    repeats: int,
    before: Mapping[str, Callable[[], object]],
) -> dict[str, Times]:
    """Time calls on a CPU that come in parts ``0 .. parts-1``: in every turn all variants take
    part ``i`` before one of them takes the next, so what else the machine does meets all alike.

    A sample is the sum of a variant's parts. repeats: turns, the first of which is not counted.
    before: untimed preparation of every turn.
    """
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats + 1):
        for prepare in before.values():
            prepare()
        sums = dict.fromkeys(variants, 0.0)
        for part in range(parts):
            for name, call in variants.items():
                sums[name] += _wall(partial(call, part))
        for name, seconds in sums.items():
            found[name].append(seconds)
    return {name: Times(tuple(seconds[1:])) for name, seconds in found.items()}


def wall_seconds(device: torch.device, call: Callable[[], object]) -> float:
    """Wall time of a call and of what it gave the device to do."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def step_times(device: torch.device, step: Callable[[int], object], steps: int) -> Times:
    """The time of each of ``steps`` calls ``step(t)``, for p99 and the worst token.

    On a GPU between CUDA events, which are read when all calls have been made.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
            events[0].record()
            for t in range(steps):
                step(t)
                events[t + 1].record()
            events[-1].synchronize()
        return Times(tuple(a.elapsed_time(b) * 1e-3 for a, b in itertools.pairwise(events)))
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


def clock() -> float:
    """Seconds, as `use_processor_time` says."""
    return _clock()


def _wall(call: Callable[[], object]) -> float:
    start = _clock()
    call()
    return _clock() - start


def _events(device: torch.device, call: Callable[[], object]) -> float:
    with torch.cuda.device(device):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
    return start.elapsed_time(stop) * 1e-3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def captured(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The replay of a CUDA graph of the call; on a CPU the call itself."""
    if device.type != "cuda":
        return call
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    return graph.replay
