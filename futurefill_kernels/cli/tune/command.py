"""``python -m futurefill_kernels tune``: measure this machine's rates and store them for plans."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ... import native
from ...implementations.select import on_this_gpu
from ...planning.capabilities import on_gpus
from ...planning.cpu_cost import TIERS, WORK
from ...planning.device import DeviceInfo
from ...planning.gpu_cost import fill_lines, made_line, step_line
from ...planning.gpu_times import GpuTimes
from ...planning.measure_cpu import measure_cpu, pieces
from ...planning.processor import processor_name
from ...planning.rates import store_rates, tuning_mode
from ..device import add_device_argument, resolve_device
from ..line_errors import largest_errors
from . import compile_ahead
from .compile_measured import compile_measured
from .measure_gpu import measure_gpu
from .measure_kernels import Sizes, measure_kernels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tune``."""
    add_device_argument(parser, default="cpu")
    parser.add_argument("--seconds", type=float, default=30.0, help="about how long it is measured")
    parser.add_argument("--dry-run", action="store_true", help="print the rates, store nothing")
    parser.add_argument("--output", type=Path, help="store there, where no plan looks for it")
    compile_ahead.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, print, store; or compile."""
    device = resolve_device(args.device)
    if args.compile:
        compile_ahead.run(args, device)
        return
    if args.seconds <= 0:
        raise ValueError(f"expected --seconds > 0, got {args.seconds}")
    info = DeviceInfo.of(device)
    if info.kind == "cpu":
        reason = native.cpu_unavailable_reason()
        if reason is not None:
            raise RuntimeError(f"the CPU kernels cannot be measured: {reason}")
        name, size = processor_name(), native.cpu_lanes(torch.float32)
        with tqdm(total=pieces(), unit="size", leave=False) as bar:

            @contextmanager
            def piece(name: str) -> Iterator[None]:
                bar.set_description(name)
                yield
                bar.update()

            rates = measure_cpu(args.seconds, piece)
        _print_cpu(rates)
    else:
        name, size = torch.cuda.get_device_name(device), info.sm_count
        rates = dict(measure_gpu(device))
        for key, value in rates.items():
            print(f"{key:<24} {value:.4g} (until now {getattr(info, key):.4g})")
        sizes = Sizes()
        if "triton" in on_this_gpu(device, torch.float32):
            print(compile_measured(device, sizes))
        rates["times"] = measure_kernels(device, on_gpus(), args.seconds, sizes)
        _print_gpu(GpuTimes.parse(rates["times"]))
    if not args.dry_run:
        print(f"stored in {store_rates(info.kind, name, size, rates, args.output)}")
        if tuning_mode() == "off" and args.output is None:
            print("FUTUREFILL_TUNING=off: plans do not use it")


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


def _print_gpu(times: GpuTimes) -> None:
    """Lines through the times, and how far off they are."""
    print(
        f"reads {times.read_bytes_per_second:.3g} bytes/s, a node {1e6 * times.node_seconds:.2f} us"
    )
    costs = ", ".join(f"{odd}: {cost:.2f}" for odd, cost in times.ffts)
    print(f"a point of torch.fft over one of a power of two, by odd factor of the length: {costs}")
    for name, found in times.kernels:
        host = f"{1e6 * found.launch_seconds:.1f} us for a launch of a fill"
        if found.steps:
            host += f", {1e6 * found.step_launch_seconds:.1f} us for a history or a step"
        print(f"{name}: the host takes {host}")
        if found.steps:
            line = step_line(times, name)
            print(
                f"  steps: {1e6 * line.latency:.2f} us for each of 1 + layers launches, and bytes "
                f"at {1 / max(line.slope, 1e-30):.3g}/s; off by up to {100 * line.error:.0f}%"
            )
        for block, line in sorted(fill_lines(times, name).items()):
            print(
                f"  fill of {block:>5}: {1e6 * line.latency:.2f} us, bytes, and "
                f"{1e12 * line.slope:.2f} ps per point; off by up to {100 * line.error:.0f}%"
            )
        for time in found.prompts:
            print(f"  prompt of {time.size} x {time.rows}: {1e6 * time.seconds:.0f} us")
    if times.made:
        line = made_line(times)
        print(
            f"spectra made: {1e6 * line.latency:.2f} us for a launch, and bytes at "
            f"{1 / max(line.slope, 1e-30):.3g}/s; off by up to {100 * line.error:.0f}%"
        )
    errors = ", ".join(f"{kind} {100 * x:.0f}%" for kind, x in largest_errors(times).items())
    print(f"the lines are off by up to: {errors}")
