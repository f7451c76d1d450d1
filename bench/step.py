"""The price of one ``cache.step`` call: one channel, no fill due."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import futurefill_kernels as ff


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``step``."""
    parser.add_argument("--repeats", type=int, default=200)


def microseconds(function: Callable[[], object], calls: int) -> float:
    """Mean time of a call."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls * 1e6


def run(args: argparse.Namespace) -> None:
    """Time steps and, in turns, the cheapest op of torch."""
    torch.set_num_threads(args.threads)
    repeats = 5 if args.quick else args.repeats
    block = 32
    cache = ff.FutureFillCache(
        torch.randn(1, block), 1, block, plan=ff.Plan(block, (block,)), impl=args.impl
    )
    u, out = torch.randn(1, 1), torch.zeros(1, 1)
    variants: dict[str, Callable[[], object]] = {
        "cache.step(u)": lambda: cache.step(u),
        "cache.step(u, out=y)": lambda: cache.step(u, out=out),
        "y.add_(1), for scale": lambda: out.add_(1),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, function in variants.items():
            cache.reset()
            times[name].append(microseconds(function, block))
    print(f"impl={cache.impl}, D=1, B=1, medians of {repeats} x {block} calls")
    for name, found in times.items():
        print(f"{name:<22} {statistics.median(found):6.2f} us")
