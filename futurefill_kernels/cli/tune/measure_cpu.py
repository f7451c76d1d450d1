"""Times of steps and fills on this CPU, for ``tune``."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from ... import native, ops
from ...implementations import cpu
from ...plan import Plan
from ...planning.cpu_cost import TIERS, WORK
from ...planning.processor import second_level_bytes
from ...state.tensors import StreamState, allocate, level_table

STEP_BLOCKS = (4, 8, 16, 32, 64, 128, 256)
FILL_BLOCKS = tuple(1 << k for k in range(2, 18))
#: Bytes that the firings of one measurement touch, per tier.
BUDGETS = {"l2": 384 << 10, "l3": 8 << 20, "dram": 80 << 20}
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
                steps.append([block, _step_ns(block, each)])
        call = _call_ns(each)
        fills: list[tuple[int, list[list[float]]]] = []
        for block in FILL_BLOCKS:
            with piece(f"fill of {block}"):
                fills.append((block, _tier_times(block, each, call)))
        with piece("one firing"):
            firing = _firing_ns({block: tiers[0][0] for block, tiers in fills}, each)
        factors, handovers = [], []
        for n in counts:
            with piece(f"{n} threads"):
                found, handover = _threads(n, call, each)
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
    }


def _thread_counts() -> list[int]:
    """Powers of two of threads, and all that torch uses."""
    threads = torch.get_num_threads()
    return sorted({min(1 << k, threads) for k in range(1, threads.bit_length() + 1)} - {1})


def _call_ns(seconds: float) -> float:
    """A call of ``fill`` that finds nothing to do."""
    state, nobody = _state(16, 16), torch.tensor([-1], device="cpu")
    return _fastest(partial(cpu.fill, state, state.plan.levels[0], nobody), seconds)


def _firing_ns(per_channel: dict[int, float], seconds: float) -> float:
    """What a firing takes beyond its channels' times, inside a state of one vector of channels.

    Fills over the whole length are the difference to the same steps without levels.
    """
    lanes, length = native.cpu_lanes(torch.float32), 256
    found = []
    for first in (8, 16, 32):
        plan = Plan.continuous(length, first)
        layout = cpu.make_layout(lanes, lanes, torch.float32, plan)
        h = _zeros(lanes, length)
        state = allocate(plan, layout, cpu.make_spectra, [h], 1, None)
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


def _threads(n: int, call_ns: float, seconds: float) -> tuple[list[float], float]:
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
            channels = BUDGETS[work] * (threads if work == "l2" else 1) // (_FILL_BYTES * 256)
            channels = max(channels // 16, n) * 16
            times.append(_single(256, channels, seconds) - call_ns / channels)
        found.append(round(times[1] / times[0], 3))
    # the least that is given to two threads
    few = []
    for threads in (1, n):
        torch.set_num_threads(threads)
        few.append(_single(16, 128, seconds) * 128 - call_ns)
    torch.set_num_threads(1)
    return found, round(max(few[1] - few[0] / min(n, 2), 0.0), 1)


def _tier_times(block: int, seconds: float, call_ns: float) -> list[list[float]]:
    """[single, keep, product] in ns per channel for every tier."""
    tiers: list[list[float]] = []
    before = 0
    for tier in TIERS:
        channels = max(16, BUDGETS[tier] // (_FILL_BYTES * block) // 16 * 16)
        channels = min(channels, 65536)
        if channels != before:
            single, keeping, three = _fill_times(block, channels, seconds)
            single = max(single - call_ns / channels, 0.2 * single)
            keeping, three = keeping - call_ns / channels, three - call_ns / channels
            found = [single, max(keeping - single, 0.0), max((three - single) / 2, 0.0)]
        if tiers:  # a farther tier is never cheaper
            found = [max(a, b) for a, b in zip(found, tiers[-1], strict=True)]
        tiers.append([round(x, 3) for x in found])
        before = channels
    return tiers


def _state(block: int, channels: int) -> StreamState:
    """A group of four blocks, its tensors zero: the time does not depend on the values."""
    plan = Plan(4 * block, (block,))
    layout = cpu.make_layout(channels, channels, torch.float32, plan)
    one = _zeros(layout.lanes, 1)
    lanes = dataclasses.replace(layout, channels=layout.lanes, groups=layout.lanes)

    def spectra(h: torch.Tensor, plan: Plan, _: Any, dtype: torch.dtype) -> torch.Tensor:
        tile = cpu.make_spectra(one, plan, lanes, dtype)
        return tile.new_zeros(layout.filter_tiles, *tile.shape[1:])

    return allocate(plan, layout, spectra, [_zeros(channels, 1)], 1, None)


def _fill_times(block: int, channels: int, seconds: float) -> tuple[float, float, float]:
    """ns per channel of a firing with one product, one product kept, three products."""
    state = _state(block, channels)
    (level,) = state.plan.levels
    found = []
    for of, position in ((_one_product(state), block), (state, block), (state, 3 * block)):
        state.positions.fill_(position)
        ns = _fastest(partial(cpu.fill, of, level, None), seconds)
        found.append(ns / channels)
    return found[0], found[1], found[2]


def _single(block: int, channels: int, seconds: float) -> float:
    """ns per channel of a firing with one product."""
    state = _one_product(_state(block, channels))
    state.positions.fill_(block)
    return _fastest(partial(cpu.fill, state, state.plan.levels[0], None), seconds) / channels


def _one_product(state: StreamState) -> StreamState:
    """The same state, whose only level fires once with one spectrum and keeps nothing."""
    level = dataclasses.replace(state.plan.levels[0], radix=2, n_spectra=1, kept=0)
    return dataclasses.replace(state, levels=level_table([level], state.layout))


def _step_ns(block: int, seconds: float) -> float:
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
    """All steps of a block without fills."""
    plan = Plan(block, (block,))
    layout = cpu.make_layout(channels, channels, torch.float32, plan)
    h = _zeros(channels, block)
    state = allocate(plan, layout, cpu.make_spectra, [h], 1, None)
    step, u = cpu.make_step(state), _zeros(1, channels)
    y = torch.empty_like(u)

    def whole() -> None:
        state.positions.zero_()
        for _ in range(block):
            step(u, None, None, y, None, 0, True)

    return whole


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.float32, device="cpu")


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """Lower quartile of the times of a call, in ns; at least five calls."""
    call()
    times: list[int] = []
    stop = time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < stop and len(times) < 2000):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return float(sorted(times)[len(times) // 4])
