"""A whole generation, one ``cache.step`` per token with ``u_{t+1} = y_t``."""

from __future__ import annotations

import argparse

import futurefill_kernels as ff

from . import shapes
from .machine import check_memory
from .timing import measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``stream``."""
    parser.add_argument("--block-sizes", default=None, help="for example 32,256,4096")
    parser.add_argument("--repeats", type=int, default=3)


def run(args: argparse.Namespace) -> None:
    """Check one generation against float64, then time others."""
    sizes = [(1, 64, 2048)] if args.quick else args.shapes or [(1, 1024, 65536)]
    for batch, channels, length in sizes:
        check_memory(40 * (batch + 1) * channels * length, f"B={batch} D={channels} L={length}")
        h = shapes.filters(channels, length, args.dtype)
        plan = None
        if args.block_sizes is not None:
            plan = ff.Plan(length, tuple(int(size) for size in args.block_sizes.split(",")))
        cache = ff.FutureFillCache(h, batch, length, plan=plan, impl=args.impl)
        u_0 = shapes.first_input(batch, channels, args.dtype)
        error = shapes.generation_error(shapes.generate(cache, u_0), h)
        times = None
        if error <= shapes.tolerance(args.dtype):
            times = measure(
                {"ours": lambda c=cache, u=u_0: shapes.generate(c, u)},
                repeats=1 if args.quick else args.repeats,
                warmup=0,
            )["ours"]
        args.report.add(
            "ours", B=batch, D=channels, L=length, dtype=args.dtype, impl=cache.impl,
            plan=cache.plan, times=times, tokens=batch * length, error=error,
            tolerance=shapes.tolerance(args.dtype),
            **shapes.stream_cost(cache.plan, batch, channels, channels, args.dtype.itemsize),
        )  # fmt: skip
