"""Times of a GPU's kernels for `GpuTimes`: steps, fills and prompts of each implementation, fills
through torch.fft, and fills that make their filter spectra.

The kernels are replayed from CUDA graphs with cold caches, without the host; what the host takes
for a launch is measured apart. On a CPU, in tests, plain calls stand in for the graphs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...cache.cache import FutureFillCache
from ...implementations.base import Implementation
from ...implementations.cuda_early import TILES
from ...implementations.mixed import Mixed
from ...implementations.select import IMPLEMENTATIONS, LEVEL_FILLS, cannot_run
from ...plan import Plan
from ...planning.capabilities import VARIANTS
from ...planning.gpu_cost import FFT, FFT_FILL_LAUNCHES
from ...planning.prompt_length import ODD_FACTORS
from ...state.tensors import StreamState, allocate

#: (first block, layers, rows), the most telling ones first.
STEPS = ((64, 24, 1), (64, 1, 1), (64, 24, 8), (256, 24, 1), (16, 24, 1))
#: (block, layers, rows), likewise.
FILLS = tuple(
    (block, layers, rows)
    for layers, rows in ((24, 1), (8, 8), (1, 1))
    for block in (64, 256, 1024, 4096, 8192, 16384, 512, 2048, 16)
)
#: (positions, layers, rows)
PROMPTS = ((4096, 1, 1), (2048, 1, 16), (32768, 1, 1), (131072, 1, 1))
#: (block, layers, rows) of a level that makes its spectra
MADE = ((8192, 24, 1), (32768, 1, 1), (8192, 1, 8))
_COLD_BYTES = 128 << 20
_REPEATS = 7
_CALLS = 50


@dataclass(frozen=True)
class Sizes:
    """What is measured: channels, and (size, layers, rows) of each kind; lengths of torch.fft are
    between fft_points and twice as many.
    """

    channels: int = 1024
    steps: Sequence[tuple[int, int, int]] = STEPS
    fills: Sequence[tuple[int, int, int]] = FILLS
    prompts: Sequence[tuple[int, int, int]] = PROMPTS
    made: Sequence[tuple[int, int, int]] = MADE
    fft_points: int = 1 << 16


def measure_kernels(
    device: torch.device, names: Sequence[str], seconds: float, sizes: Sizes | None = None
) -> dict[str, Any]:
    """What ``GpuTimes.parse`` reads, within about ``seconds``; what comes last is left out then.

    Of the implementations that run on the device. Sizes whose state takes more than a quarter of
    the memory that is free are left out as well.
    """
    sizes = sizes or Sizes()
    reasons = cannot_run(device, torch.float32)
    running = [name for name in names if not reasons[name]]
    clock = Clock(device)
    stop = time.perf_counter() + seconds
    forms = [form for form, name in VARIANTS.items() if name in running]
    forms += [FFT] if running else []
    found: dict[str, dict[str, Any]] = {}
    for name in (*running, *forms):
        steps_of = name if name in running else VARIANTS.get(name, running[0])
        found[name] = {
            "launch_us": 1e6 * _fill_launch_seconds(name, device, sizes.channels),
            "step_launch_us": 1e6 * _step_launch_seconds(steps_of, device, sizes.channels),
            "steps": [], "fills": [], "prompts": [],
        }  # fmt: skip
    made: list[list[float]] = []
    for size in sizes.made if running else ():
        if (not made or time.perf_counter() < stop) and _fits(device, sizes.channels, size):
            seconds = _made(clock, IMPLEMENTATIONS[running[0]], sizes.channels, *size)
            made.append([*size, 1e6 * seconds])
    for kind, name, size, call in _in_turns(running, forms, sizes):
        if found[name][kind] and time.perf_counter() > stop:
            continue
        if not _fits(device, sizes.channels, size):
            continue
        found[name][kind].append([*size, 1e6 * call(clock)])
    return {
        "channels": sizes.channels,
        "read_bytes_per_second": clock.read_bytes_per_second,
        "node_us": 1e6 * clock.node_seconds,
        "ffts": fft_costs(clock, sizes.fft_points),
        "made": made,
        "implementations": found,
    }


def fft_costs(clock: Clock, points: int) -> list[tuple[int, float]]:
    """By odd factor, what a point of a transform there and back takes, over one of a power of two;
    256 transforms of a length from ``points``, a power of two, up to twice as many.
    """
    found = []
    for odd in ODD_FACTORS:
        n = odd * (points >> odd.bit_length() - 1)
        x = torch.zeros(256, n, dtype=torch.float32, device=clock.device)
        seconds = clock.seconds(partial(_there_and_back, x))
        found.append((odd, seconds / n))
    return [(odd, round(seconds / found[0][1], 3)) for odd, seconds in found]


def _there_and_back(x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x), x.shape[1])


def _in_turns(
    names: Sequence[str], forms: Sequence[str], sizes: Sizes
) -> Iterator[tuple[str, str, tuple[int, int, int], Callable[[Clock], float]]]:
    """All measurements, every size of every implementation before the next size; of forms of fills
    nothing else, and only those that differ.
    """

    def measurement(
        measure: Callable[..., float], name: str, size: tuple[int, int, int]
    ) -> Callable[[Clock], float]:
        return lambda clock: measure(clock, _implementation(name), sizes.channels, *size)

    kinds = (
        ("steps", sizes.steps, _steps), ("prompts", sizes.prompts, _prompt),
        ("fills", sizes.fills, _fill),
    )  # fmt: skip
    for kind, found, measure in kinds:
        for size in found:
            for name in names:
                yield kind, name, size, measurement(measure, name, size)
            for name in forms:
                if kind == "fills" and (name == FFT or size[0] in TILES):
                    yield kind, name, size, measurement(measure, name, size)


def _implementation(name: str) -> Implementation:
    """By the name of it, or of a form of fills, then for a plan with one level."""
    if name in IMPLEMENTATIONS:
        return IMPLEMENTATIONS[name]
    whole = IMPLEMENTATIONS[VARIANTS.get(name, "cuda")]
    return Mixed(whole, whole, (LEVEL_FILLS[name],))


class Clock:
    """Seconds of a device, the median of some replays."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.gpu = device, device.type == "cuda"
        nbytes = _COLD_BYTES if self.gpu else 1 << 16
        self._scratch = torch.zeros(nbytes // 4, dtype=torch.float32, device=device)
        self._overhead = 0.0
        small = torch.zeros(32, dtype=torch.float32, device=device)
        one = self.seconds(lambda: small.add_(1))
        many = self.seconds(lambda: [small.add_(1) for _ in range(100)])
        #: Of an empty node of a graph.
        self.node_seconds = max(many - one, 0.0) / 99
        self._overhead = max(one - self.node_seconds, 0.0) if self.gpu else 0.0
        large = torch.zeros(16 * nbytes // 4, dtype=torch.float32, device=device)
        #: Of a sum over an array larger than the caches.
        self.read_bytes_per_second = large.nbytes / self.seconds(large.sum)

    def seconds(
        self, call: Callable[[], object], before: Callable[[], object] | None = None
    ) -> float:
        """Of a call, without the host where the device is a GPU. before: prepares each."""
        prepare = before or (lambda: None)
        prepare()
        call()  # compiles and loads
        replay = call
        if self.gpu:
            prepare()
            torch.cuda.synchronize(self.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            replay = graph.replay
        return self._median(replay, prepare)

    def eager_seconds(self, call: Callable[[], object]) -> float:
        """The same with the host's launches, for what cannot be captured."""
        call()
        return self._median(call, lambda: None)

    def _median(self, call: Callable[[], object], prepare: Callable[[], object]) -> float:
        found = []
        for _ in range(_REPEATS):
            prepare()
            self._scratch.sum()
            if self.gpu:
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                stop.record()
                stop.synchronize()
                found.append(1e-3 * start.elapsed_time(stop))
            else:
                begin = time.perf_counter()
                call()
                found.append(time.perf_counter() - begin)
        return max(statistics.median(found) - self._overhead, 1e-9)


def _state(
    implementation: Implementation, device: torch.device, plan: Plan, channels: int, layers: int,
    rows: int,
) -> StreamState:  # fmt: skip
    """A state at position 0, whose filter spectra are noise: times do not depend on them."""
    layout = implementation.make_layout(channels, channels, torch.float32, plan)
    h = torch.full((channels, plan.slots), 1 / plan.slots, dtype=torch.float32, device=device)
    shape = (layout.filter_tiles, plan.spectra_rows, 2, layout.filter_lanes)
    spectra = torch.rand(shape, dtype=torch.float32, device=device) / plan.slots
    return allocate(plan, layout, lambda *arguments: spectra, [h] * layers, rows, None)


def _steps(
    clock: Clock, implementation: Implementation, channels: int, block: int, layers: int, rows: int
) -> float:
    """A token in the middle of a block: history and the steps of all layers."""
    plan = Plan(2 * block, (block,))
    state = _state(implementation, clock.device, plan, channels, layers, rows)
    history, step = implementation.make_history(state), implementation.make_step(state)
    u = torch.ones(rows, channels, dtype=torch.float32, device=clock.device)
    y = torch.empty_like(u)

    def token() -> None:
        if history is not None:
            history(None)
        for layer in range(layers):
            step(u, None, None, y, None, layer, layer == layers - 1)

    return clock.seconds(token, lambda: state.positions.fill_(block + block // 2))


def _fill(
    clock: Clock, implementation: Implementation, channels: int, block: int, layers: int, rows: int
) -> float:
    """The first firing of a group."""
    plan = Plan(2 * block, (block,))
    state = _state(implementation, clock.device, plan, channels, layers, rows)
    level = plan.levels[0]
    state.positions.fill_(block)
    return clock.seconds(lambda: implementation.fill(state, level, None))


def _made(
    clock: Clock, implementation: Implementation, channels: int, block: int, layers: int, rows: int
) -> float:
    """The first firing of a group, which makes its spectrum."""
    plan = Plan(2 * block, (block,), made_from=block)
    state = _state(implementation, clock.device, plan, channels, layers, rows)
    state.positions.fill_(block)
    return clock.eager_seconds(lambda: implementation.fill(state, plan.levels[0], None))


def _prompt(
    clock: Clock, implementation: Implementation, channels: int, positions: int, layers: int,
    rows: int,
) -> float:  # fmt: skip
    """A prompt of that many positions, with gates, and its future fill."""
    h = torch.ones(channels, positions, dtype=torch.float32, device=clock.device) / positions
    name = implementation.capabilities.name
    cache = FutureFillCache([h] * layers, rows, 64, plan=Plan(64, (64,)), impl=name)
    u = torch.ones(rows, channels, positions, dtype=torch.float32, device=clock.device)

    def prompt() -> None:
        cache.reset()
        for layer in range(layers):
            cache.prefill(u, layer, pre=u, post=u)

    return clock.eager_seconds(prompt)


def _fill_launch_seconds(name: str, device: torch.device, channels: int) -> float:
    """Of the host, for a launch of a fill, or a call of torch in one."""
    plan, implementation = Plan(32, (16,)), _implementation(name)
    state = _state(implementation, device, plan, channels, 1, 1)
    state.positions.fill_(16)
    seconds = _host_seconds(device, lambda: implementation.fill(state, plan.levels[0], None))
    return seconds / (FFT_FILL_LAUNCHES if name == FFT else 1)


def _step_launch_seconds(name: str, device: torch.device, channels: int) -> float:
    """Of the host, for a history or a step."""
    plan, implementation, layers = Plan(32, (16,)), _implementation(name), 8
    state = _state(implementation, device, plan, channels, layers, 1)
    history, step = implementation.make_history(state), implementation.make_step(state)
    u = torch.ones(1, channels, dtype=torch.float32, device=device)
    y = torch.empty_like(u)

    def token() -> None:
        if history is not None:
            history(None)
        for layer in range(layers):
            step(u, None, None, y, None, layer, False)

    return _host_seconds(device, token) / (layers + (history is not None))


def _host_seconds(device: torch.device, call: Callable[[], object]) -> float:
    """Of one of many calls, without waiting for the device."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(_CALLS):
        call()
    seconds = time.perf_counter() - start
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return seconds / _CALLS


def _fits(device: torch.device, channels: int, size: tuple[int, int, int]) -> bool:
    """Whether ring, kept spectra and filter spectra leave room."""
    if device.type != "cuda":
        return True
    positions, layers, rows = size
    return 40 * positions * channels * layers * (rows + 1) < torch.cuda.mem_get_info(device)[0] // 4
