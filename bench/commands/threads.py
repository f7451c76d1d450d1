"""Whole generations on one thread and on more, in turns: how much the worker threads bring."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.timing import measure
from .cpu_vs_torch import clear, generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``threads``."""
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--counts", default="1,2", help="numbers of threads; --threads is ignored")


def run(args: argparse.Namespace) -> None:
    """Check a generation on every number of threads against float64, then time them in turns."""
    counts = [int(n) for n in args.counts.split(",")]
    if min(counts) < 1:
        raise ValueError(f"expected --counts of at least 1, got {args.counts}")
    for batch, channels, length in (
        [(1, 64, 1024)] if args.quick else args.shapes or [(1, 1024, 65536)]
    ):
        check_memory((24 * batch + 32) * channels * length, f"{batch},{channels},{length}")
        _shape(args, counts, batch, channels, length)


def _shape(
    args: argparse.Namespace, counts: list[int], batch: int, channels: int, length: int
) -> None:
    h = shapes.filters(channels, length)
    cache = ff.FutureFillCache(h, batch, length, impl="cpu")
    rows = shapes.make_rows(batch, channels, length, torch.float32)
    calls: dict[str, Callable[[], object]] = {}
    before: dict[str, Callable[[], object]] = {}
    errors, name_of = {}, {n: f"{n} thread{'s'[: n > 1]}" for n in counts}
    for n, name in name_of.items():
        calls[name], before[name] = partial(generate, cache, rows), partial(_start, cache, rows, n)
        before[name]()
        calls[name]()
        errors[name] = shapes.generation_error(rows, h)
    times = measure(
        calls,
        device=args.device,
        repeats=1 if args.quick else args.repeats,
        warmup=0,
        before=before,
    )
    first = name_of[counts[0]]
    for n, name in name_of.items():
        args.report.add(
            name, threads=n, B=batch, D=channels, L=length, dtype=torch.float32, impl="cpu",
            plan=cache.plan, times=times[name], tokens=batch * length, error=errors[name],
            tolerance=shapes.tolerance(torch.float32),
            baseline=None if name == first else (first, times[first]),
            **shapes.stream_cost(cache.plan, batch, channels, channels, 4),
        )  # fmt: skip
    torch.set_num_threads(args.threads)


def _start(cache: ff.FutureFillCache, rows: Tensor, threads: int) -> None:
    torch.set_num_threads(1)  # torch's own workers would spin on the other core for a while
    rows[1:] = 0
    clear(cache)
    torch.set_num_threads(threads)
