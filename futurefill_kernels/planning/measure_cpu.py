"""Times of steps and fills on this CPU, and the cache that its kernels really have."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from .. import native, ops
from ..plan import Plan
from ..state.layout import Layout
from ..state.tensors import StreamState, allocate, level_table
from .capabilities import CAPABILITIES
from .cpu_cost import TIERS, WORK
from .processor import last_level_bytes, second_level_bytes

STEP_BLOCKS = (4, 8, 16, 32, 64, 128, 256)
FILL_BLOCKS = tuple(1 << k for k in range(2, 18))
#: Bytes that are swept for the size of the last-level cache.
SWEPT_BYTES = 128 << 20
#: Ring, prompt fill, kept spectra, spectra and taps of a measured state over what it touches.
_FILL_BYTES = 16
#: Turns of a measurement that other programs disturb.
_PATIENCE = 20


def pieces() -> int:
    """How many pieces ``measure_cpu`` measures."""
    return len(STEP_BLOCKS) + len(FILL_BLOCKS) + 1 + len(_thread_counts())


def measure_cpu(
    seconds: float, piece: Callable[[str], AbstractContextManager[None]]
) -> dict[str, Any]:
    """Times in ns per channel and factors on them: see ``cpu_cost.CpuRates``.

    seconds: about how long it takes. piece(name): entered while that piece is measured.
    """
    threads, counts = torch.get_num_threads(), _thread_counts()
    thread_calls = (2 * len(WORK) + 2) * len(counts)
    each = seconds / (len(STEP_BLOCKS) + 3 * len(TIERS) * len(FILL_BLOCKS) + thread_calls)
    torch.set_num_threads(1)
    try:
        steps = []
        for block in STEP_BLOCKS:
            with piece(f"step, first block {block}"):
                steps.append([block, step_ns(block, each)])
        call = call_ns(each)
        last_level = measured_last_level_bytes()
        fills: list[tuple[int, list[list[float]]]] = []
        for block in FILL_BLOCKS:
            with piece(f"fill of {block}"):
                fills.append((block, tier_times(block, each, call, budgets(last_level))))
        with piece("one firing"):
            firing = _firing_ns({block: tiers[0][0] for block, tiers in fills}, each)
        factors, handovers = [], []
        for n in counts:
            with piece(f"{n} threads"):
                found, handover = _threads(n, call, each, budgets(last_level))
            factors.append([n, found])
            handovers.append(handover)
    finally:
        torch.set_num_threads(threads)
    return {
        "steps": steps,
        "fills": fills,
        "firing_ns": firing,
        "threads": factors,
        "handover_ns": handovers[0] if handovers else 0.0,
        "l2_bytes": second_level_bytes(),
        "last_level_bytes": last_level,
    }


def measured_last_level_bytes() -> int:
    """The size up to which a pass over an array is faster than one over memory.

    What the system reports may be another thing: a share of a cache, or one that others fill. Where
    no size is faster it is as reported.
    """
    reported = last_level_bytes()
    array = _zeros(SWEPT_BYTES // 4)
    size, times = 2 * second_level_bytes(), {}
    while size <= SWEPT_BYTES:
        times[size] = _fastest(array[: size // 4].neg_, 0.005) / size
        size *= 2
    return edge(times) or min(reported, SWEPT_BYTES)


def edge(times: dict[int, float]) -> int:
    """Where a time per byte leaves the first ones and nears the last; 0 where it does not rise.

    times: by size, ascending; interpolated between the two sizes around the geometric mean.
    """
    sizes, ns = list(times), list(times.values())
    inside, outside = min(ns[:3]), ns[-1]
    if outside < 1.3 * inside:
        return 0
    middle = math.sqrt(inside * outside)
    # from the far end: a disturbed small size is no edge
    after = next(i for i in reversed(range(len(ns))) if i == 0 or ns[i - 1] < middle)
    if after == 0:
        return sizes[0]
    share = math.log(middle / ns[after - 1]) / math.log(ns[after] / ns[after - 1])
    return round(sizes[after - 1] * (sizes[after] / sizes[after - 1]) ** share)


def budgets(last_level: int) -> dict[str, int]:
    """Bytes that the firings of one measurement touch, per tier, well inside it."""
    return {
        "l2": second_level_bytes() * 3 // 4,
        "l3": min(max(last_level // 3, 2 * second_level_bytes()), 8 << 20),
        "dram": min(max(4 * last_level, 24 << 20), 80 << 20),
    }


def _thread_counts() -> list[int]:
    """Powers of two of threads, and all that torch uses."""
    threads = torch.get_num_threads()
    return sorted({min(1 << k, threads) for k in range(1, threads.bit_length() + 1)} - {1})


def call_ns(seconds: float) -> float:
    """A call of ``fill`` that finds nothing to do."""
    state, nobody = _state(16, 16), torch.tensor([-1], device="cpu")
    return _fastest(partial(ops.future_fill, state, 0, nobody), seconds)


def _firing_ns(per_channel: dict[int, float], seconds: float) -> float:
    """What a firing takes beyond its channels' times, inside a state of one vector of channels.

    Fills over the whole length are the difference to the same steps without levels.
    """
    lanes, length = native.cpu_lanes(torch.float32), 256
    found = []
    for first in (8, 16, 32):
        plan = Plan.continuous(length, first)
        h = _zeros(lanes, length)
        state = allocate(plan, _layout(lanes, length), _no_spectra, [h], 1, None)
        u, y = _zeros(1, lanes), _zeros(length, 1, lanes)

        def whole(s: StreamState, u: Any = u, y: Any = y) -> None:
            s.positions.zero_()
            ops.generate(s, u, y)

        ns = _fastest(partial(whole, state), seconds / 6)
        without_levels = dataclasses.replace(state, levels=state.levels[:0])
        ns -= _fastest(partial(whole, without_levels), seconds / 6)
        firings = 0
        for level in plan.levels:
            firings += plan.firings(level)
            ns -= plan.firings(level) * lanes * per_channel.get(level.block, 0.0)
        found.append(ns / firings)
    return round(max(sorted(found)[1], 0.0), 1)


def _threads(
    n: int, call: float, seconds: float, touched: dict[str, int]
) -> tuple[list[float], float]:
    """Time with n threads over that with one, for each of WORK, and ns of giving work away."""
    found = []
    for work in WORK:
        times = []
        for threads in (1, n):
            torch.set_num_threads(threads)
            if work == "step":
                times.append(_step_call(16, 16384, seconds))
                continue
            # a second-level cache for each thread
            channels = touched[work] * (threads if work == "l2" else 1) // (_FILL_BYTES * 256)
            channels = max(channels // 16, n) * 16
            times.append(single_ns(256, channels, call, seconds))
        found.append(round(times[1] / times[0], 3))
    # the least that is given to two threads
    few = []
    for threads in (1, n):
        torch.set_num_threads(threads)
        few.append(single_ns(16, 128, call, seconds) * 128)
    torch.set_num_threads(1)
    return found, round(max(few[1] - few[0] / min(n, 2), 0.0), 1)


def tier_times(
    block: int, seconds: float, call: float, touched: dict[str, int]
) -> list[list[float]]:
    """[single, keep, product] in ns per channel for every tier.

    call: ns of a call. touched: bytes of a firing, per tier.
    """
    tiers: list[list[float]] = []
    before = 0
    for tier in TIERS:
        channels = max(16, touched[tier] // (_FILL_BYTES * block) // 16 * 16)
        channels = min(channels, 65536)
        if channels != before:
            single, keeping, three = _fill_times(block, channels, seconds)
            single = max(single - call / channels, 0.2 * single)
            keeping, three = keeping - call / channels, three - call / channels
            found = [single, max(keeping - single, 0.0), max((three - single) / 2, 0.0)]
        if tiers:  # a farther tier is never cheaper
            found = [max(a, b) for a, b in zip(found, tiers[-1], strict=True)]
        tiers.append([round(x, 3) for x in found])
        before = channels
    return tiers


def _state(block: int, channels: int) -> StreamState:
    """A group of four blocks, its tensors zero: the time does not depend on the values."""
    plan = Plan(4 * block, (block,))
    return allocate(plan, _layout(channels, 4 * block), _no_spectra, [_zeros(channels, 1)], 1, None)


def _fill_times(block: int, channels: int, seconds: float) -> tuple[float, float, float]:
    """ns per channel of a firing with one product, one product kept, three products."""
    state = _state(block, channels)
    (level,) = state.plan.levels
    found = []
    for of, position in ((_one_product(state), block), (state, block), (state, 3 * block)):
        state.positions.fill_(position)
        ns = _fastest(partial(ops.future_fill, of, level.index, None), seconds)
        found.append(ns / channels)
    return found[0], found[1], found[2]


def single_ns(block: int, channels: int, call: float, seconds: float) -> float:
    """ns per channel of a firing with one product. channels: whole tiles. call: ns of a call."""
    state = _one_product(_state(block, channels))
    state.positions.fill_(block)
    ns = _fastest(partial(ops.future_fill, state, 0, None), seconds)
    return max(ns - call, 0.2 * ns) / channels


def _one_product(state: StreamState) -> StreamState:
    """The same state, whose only level fires once with one spectrum and keeps nothing."""
    level = dataclasses.replace(state.plan.levels[0], radix=2, n_spectra=1, kept=0)
    return dataclasses.replace(state, levels=level_table([level], state.layout))


def step_ns(block: int, seconds: float) -> float:
    """ns per channel of a step, averaged over a block, without the call and without fills.

    The difference of two times: both are repeated in turns, and their minima taken, until a busy
    machine has let it come out positive.
    """
    few, many = (_steps(block, channels) for channels in (16, 1024))
    least = [math.inf, math.inf]
    for _ in range(_PATIENCE):
        for index, call in enumerate((few, many)):
            least[index] = min(least[index], _fastest(call, seconds / 2) / block)
        if least[1] > least[0]:
            return round((least[1] - least[0]) / (1024 - 16), 4)
    raise RuntimeError(
        f"1024 channels took no longer than 16 in steps of first block {block}: the machine is too "
        "busy to be measured"
    )


def _step_call(block: int, channels: int, seconds: float) -> float:
    """ns of a step call, averaged over a block."""
    return _fastest(_steps(block, channels), seconds) / block


def _steps(block: int, channels: int) -> Callable[[], None]:
    """All steps of a block without fills, one call."""
    state = allocate(
        Plan(block, (block,)), _layout(channels, block), _no_spectra, [_zeros(channels, block)],
        1, None,
    )  # fmt: skip
    u, y = _zeros(1, channels), _zeros(block, 1, channels)

    def whole() -> None:
        state.positions.zero_()
        ops.generate(state, u, y)

    return whole


def _layout(channels: int, slots: int) -> Layout:
    """As ``impl="cpu"`` has it for a filter of each channel's own."""
    lanes = native.cpu_lanes(torch.float32)
    direct = CAPABILITIES["cpu"].largest_direct
    return Layout(channels, channels, lanes, lanes, slots + 16, direct)


def _no_spectra(h: torch.Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> torch.Tensor:
    """Spectra of zeros: the time does not depend on the values."""
    return _zeros(layout.filter_tiles, plan.spectra_rows, 2, layout.filter_lanes)


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.float32, device="cpu")


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """Lower quartile of the times of a call, in ns; at least five calls.

    Of one thread the time that it has a processor: others may have it in between.
    """
    clock = time.thread_time_ns if torch.get_num_threads() == 1 else time.perf_counter_ns
    call()
    times: list[int] = []
    stop = time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < stop and len(times) < 2000):
        start = clock()
        call()
        times.append(clock() - start)
    return float(sorted(times)[len(times) // 4])
