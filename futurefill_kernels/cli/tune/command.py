"""``python -m futurefill_kernels tune``: measure this machine's rates and store them for plans."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ... import native, ops
from ...implementations import cpu
from ...plan import Plan
from ...planning.capabilities import on_gpus
from ...planning.cpu_cost import TIERS, WORK
from ...planning.device import DeviceInfo, processor, second_level_cache
from ...planning.rates import mode, save
from ...state.tensors import StreamState, allocate, level_table
from .measure_gpu import measure_implementations

STEP_BLOCKS = (4, 8, 16, 32, 64, 128, 256)
FILL_BLOCKS = tuple(1 << k for k in range(2, 18))
#: Bytes that the firings of one measurement touch, per tier.
BUDGETS = {"l2": 384 << 10, "l3": 8 << 20, "dram": 80 << 20}
#: Ring, prompt fill, kept spectra, spectra and taps of a measured stream over what it touches.
_FILL_BYTES = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tune``."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="about how long a CPU is measured"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the rates, store nothing")
    parser.add_argument("--output", type=Path, help="store there, where no plan looks for it")


def run(args: argparse.Namespace) -> None:
    """Measure, print, store."""
    device = torch.device(args.device)
    if args.seconds <= 0:
        raise ValueError(f"expected --seconds > 0, got {args.seconds}")
    info = DeviceInfo.of(device)
    if info.kind == "cpu":
        reason = native.cpu_unavailable_reason()
        if reason is not None:
            raise RuntimeError(f"the CPU kernels cannot be measured: {reason}")
        name, size = processor(), native.cpu_lanes(torch.float32)
        rates = measure_cpu(args.seconds)
        _print_cpu(rates)
    else:
        name, size = torch.cuda.get_device_name(device), info.sm_count
        rates = dict(measure_gpu(device))
        for key, value in rates.items():
            print(f"{key:<24} {value:.4g} (until now {getattr(info, key):.4g})")
        measured = measure_implementations(device, on_gpus())
        for impl, seconds in measured:
            print(f"{impl:<24} {1e6 * seconds:.4g} us per token of 8 layers, 1024 channels")
        rates["implementation_seconds"] = measured
    if not args.dry_run:
        print(f"stored in {save(info.kind, name, size, rates, args.output)}")
        if mode() == "off" and args.output is None:
            print("FUTUREFILL_TUNING=off: plans do not use it")


def measure_cpu(seconds: float) -> dict[str, Any]:
    """Times in ns per channel and factors on them: see ``cpu_cost.CpuRates``."""
    threads = torch.get_num_threads()
    counts = sorted({min(1 << k, threads) for k in range(1, threads.bit_length() + 1)} - {1})
    thread_calls = (2 * len(WORK) + 2) * len(counts)
    each = seconds / (len(STEP_BLOCKS) + 3 * len(TIERS) * len(FILL_BLOCKS) + thread_calls)
    bar = tqdm(
        total=len(STEP_BLOCKS) + len(FILL_BLOCKS) + 1 + len(counts), unit="size", leave=False
    )
    torch.set_num_threads(1)
    try:
        with bar:
            steps = []
            for block in STEP_BLOCKS:
                bar.set_description(f"step, first block {block}")
                steps.append([block, _step_ns(block, each)])
                bar.update()
            call = _call_ns(each)
            fills: list[tuple[int, list[list[float]]]] = []
            for block in FILL_BLOCKS:
                bar.set_description(f"fill of {block}")
                fills.append((block, _tier_times(block, each, call)))
                bar.update()
            bar.set_description("one firing")
            firing = _firing_ns({block: tiers[0][0] for block, tiers in fills}, each)
            bar.update()
            factors, handovers = [], []
            for n in counts:
                bar.set_description(f"{n} threads")
                found, handover = _threads(n, call, each)
                factors.append([n, found])
                handovers.append(handover)
                bar.update()
    finally:
        torch.set_num_threads(threads)
    return {
        "steps": steps,
        "fills": fills,
        "firing_ns": firing,
        "threads": factors,
        "handover_ns": handovers[0] if handovers else 0.0,
        "lanes": native.cpu_lanes(torch.float32),
        "l2_bytes": second_level_cache(),
    }


def _call_ns(seconds: float) -> float:
    """A call of ``fill`` that finds nothing to do."""
    state, nobody = _stream(16, 16), torch.tensor([-1])
    return _fastest(partial(cpu.fill, state, state.plan.levels[0], nobody), seconds)


def _firing_ns(per_channel: dict[int, float], seconds: float) -> float:
    """What a firing takes beyond its channels' times, inside a stream of one vector of channels.

    Fills over whole streams are the difference to the same steps without levels.
    """
    lanes, length = native.cpu_lanes(torch.float32), 256
    found = []
    for first in (8, 16, 32):
        plan = Plan.continuous(length, first)
        layout = cpu.make_layout(lanes, lanes, torch.float32, plan)
        h = torch.zeros(lanes, length)
        state = allocate(plan, layout, cpu.make_spectra, [h], 1, None)
        u, y = torch.zeros(1, lanes), torch.empty(length, 1, lanes)

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


def _stream(block: int, channels: int) -> StreamState:
    """A group of four blocks, its tensors zero: the time does not depend on the values."""
    plan = Plan(4 * block, (block,))
    layout = cpu.make_layout(channels, channels, torch.float32, plan)
    one = torch.zeros(layout.lanes, 1)
    lanes = dataclasses.replace(layout, channels=layout.lanes, groups=layout.lanes)

    def spectra(h: torch.Tensor, plan: Plan, _: Any, dtype: torch.dtype) -> torch.Tensor:
        tile = cpu.make_spectra(one, plan, lanes, dtype)
        return torch.zeros(layout.filter_tiles, *tile.shape[1:], dtype=dtype)

    return allocate(plan, layout, spectra, [torch.zeros(channels, 1)], 1, None)


def _fill_times(block: int, channels: int, seconds: float) -> tuple[float, float, float]:
    """ns per channel of a firing with one product, one product kept, three products."""
    state = _stream(block, channels)
    (level,) = state.plan.levels
    found = []
    for of, position in ((_one_product(state), block), (state, block), (state, 3 * block)):
        state.positions.fill_(position)
        ns = _fastest(partial(cpu.fill, of, level, None), seconds)
        found.append(ns / channels)
    return found[0], found[1], found[2]


def _single(block: int, channels: int, seconds: float) -> float:
    """ns per channel of a firing with one product."""
    state = _one_product(_stream(block, channels))
    state.positions.fill_(block)
    return _fastest(partial(cpu.fill, state, state.plan.levels[0], None), seconds) / channels


def _one_product(state: StreamState) -> StreamState:
    """The same stream, whose only level fires once with one spectrum and keeps nothing."""
    level = dataclasses.replace(state.plan.levels[0], radix=2, n_spectra=1, kept=0)
    return dataclasses.replace(state, levels=level_table([level], state.layout))


def _step_ns(block: int, seconds: float) -> float:
    """ns per channel of a step, averaged over a block, without the call and without fills."""
    few, many = (_step_call(block, channels, seconds / 2) for channels in (16, 1024))
    return round(max(many - few, 0.0) / (1024 - 16), 4)


def _step_call(block: int, channels: int, seconds: float) -> float:
    """ns of a step call, averaged over a block."""
    plan = Plan(block, (block,))
    layout = cpu.make_layout(channels, channels, torch.float32, plan)
    h = torch.zeros(channels, block)
    state = allocate(plan, layout, cpu.make_spectra, [h], 1, None)
    step, u = cpu.make_step(state), torch.zeros(1, channels)
    y = torch.empty_like(u)

    def whole() -> None:
        state.positions.zero_()
        for _ in range(block):
            step(u, None, None, y, None, 0, True)

    return _fastest(whole, seconds) / block


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


def _print_cpu(rates: dict[str, Any]) -> None:
    print("float32, one thread, ns per channel")
    print("step, by first block: " + ", ".join(f"{t}: {ns:.2f}" for t, ns in rates["steps"]))
    print("fill, by block: one product / kept / each further product, data in " + ", ".join(TIERS))
    for block, tiers in rates["fills"]:
        print(f"{block:>7}  " + "   ".join(" / ".join(f"{x:.4g}" for x in t) for t in tiers))
    print(f"one firing whatever its size: {rates['firing_ns']:.0f} ns")
    for n, factors in rates["threads"]:
        named = ", ".join(f"{x:.2f} {work}" for work, x in zip(WORK, factors, strict=True))
        print(f"time with {n} threads over that with one: {named}")
    if rates["threads"]:
        print(f"giving work to other threads: {rates['handover_ns']:.0f} ns")


def measure_gpu(device: torch.device, *, scale: int = 1 << 28) -> dict[str, float]:
    """Bandwidth of a copy, float32 rate of a matrix product without TF32, and a launch.

    scale: float32 values copied; matrices are ``sqrt(scale) / 2`` wide. Any device of torch works.
    """
    source = torch.zeros(scale, device=device)
    target = torch.empty_like(source)
    copied = _device_seconds(device, lambda: target.copy_(source), 10)
    width = int(scale**0.5) // 2
    a = torch.randn(width, width, device=device)
    out = torch.empty_like(a)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        product = _device_seconds(device, lambda: torch.mm(a, a, out=out), 10)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    small = torch.zeros(32, device=device)
    launch = _device_seconds(device, lambda: small.add_(1), 2000)
    return {
        "dram_bytes_per_second": 2 * source.nbytes / copied,
        "fp32_flops": 2 * width**3 / product,
        "launch_seconds": launch,
    }


def _device_seconds(device: torch.device, call: Callable[[], object], repeats: int) -> float:
    """Seconds of one of many calls after each other."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    call()
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return (time.perf_counter() - start) / repeats
