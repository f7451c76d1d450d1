"""Single steps: median, p99 and worst, and what having no slow step costs on average."""

from __future__ import annotations

import argparse
import statistics

import torch

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.timing import Times, step_times


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``latency``."""
    parser.add_argument("--block-sizes", default=None, help="of the latency plan: 16,64,256")
    parser.add_argument("--slack-from", type=int, default=None, help="with --block-sizes")
    parser.add_argument("--repeats", type=int, default=3, help="generations of each plan, in turns")


def _least(runs: list[Times]) -> Times:
    """Per step the least time of all runs: what the step takes when nothing disturbs it."""
    return Times(tuple(map(min, zip(*(run.seconds for run in runs), strict=True))))


def run(args: argparse.Namespace) -> None:
    """Check a generation of each plan against float64, then time every step of others in turns."""
    sizes = [(1, 32, 3000)] if args.quick else args.shapes or [(1, 1024, 65536)]
    repeats = 1 if args.quick else args.repeats
    for batch, channels, length in sizes:
        check_memory(
            80 * (batch + 1) * channels * length, f"B={batch} D={channels} L={length}", args.device
        )
        h = shapes.filters(channels, length, args.dtype, args.device)
        rows = shapes.make_rows(batch, channels, length, args.dtype, args.device)
        plans = {
            name: ff.make_plan(
                length,
                channels,
                batch_size=batch,
                dtype=args.dtype,
                device=args.device,
                objective=name,
            )
            for name in ("throughput", "latency")
        }
        if args.block_sizes is not None:
            blocks = tuple(int(size) for size in args.block_sizes.split(","))
            plans["latency"] = ff.Plan(length, blocks, slack_from=args.slack_from)
        caches = {
            name: ff.FutureFillCache(h, batch, length, plan=plan, impl=args.impl)
            for name, plan in plans.items()
        }
        errors = {}
        for name, cache in caches.items():
            shapes.generate(cache, rows)
            errors[name] = shapes.generation_error(rows, h)
        runs: dict[str, list[Times]] = {name: [] for name in caches}
        u, y = rows[0].clone(), torch.zeros_like(rows[0])
        for _ in range(repeats):
            for name, cache in caches.items():
                cache.reset()
                runs[name].append(
                    step_times(args.device, lambda _, c=cache, u=u, y=y: c.step(u, out=y), length)
                )
        totals = {name: [sum(run.seconds) for run in found] for name, found in runs.items()}
        ratio = statistics.median(
            a / b for a, b in zip(totals["latency"], totals["throughput"], strict=True)
        )
        for name, cache in caches.items():
            # a disturbance hits the same step in every run only by chance
            worst = [max(run.seconds) for run in runs[name]]
            args.report.add(
                name, B=batch, D=channels, L=length, dtype=args.dtype, impl=cache.impl,
                plan=cache.plan, times=_least(runs[name]), error=errors[name],
                tolerance=shapes.tolerance(args.dtype), quantity="whole generation over throughput",
                value=ratio if name == "latency" else 1.0,
                note=f"a step; least of {repeats} runs each, single runs' worst "
                + ", ".join(f"{1e6 * w:.0f} us" for w in worst),
            )  # fmt: skip
