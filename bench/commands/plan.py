"""The planner's regret: whole generations with the planned block sizes and with a sweep of others.

The value is the planned time over the best of the sweep, from medians of paired ratios; below 1 the
planner found something faster than the whole sweep. The best of the sweep is found with all caches
side by side and then timed against the planned one in two new caches. One layer and one
implementation, every token of every plan: minutes on a GPU, where `regret` takes many layers apart.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial

from torch import Tensor

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.replayed import ReplayedStream
from ..harness.timing import Times, measure

#: Sizes across caches and memory, few and many channels, several rows, and lengths that are no
#: power of two.
SHAPES = [
    (1, 16, 65536), (1, 64, 4096), (1, 24, 262144), (1, 256, 8192), (1, 256, 32768),
    (1, 768, 8192), (1, 1024, 2048), (1, 512, 16384), (4, 256, 8192), (8, 64, 16384),
    (1, 100, 30000), (3, 200, 10000),
]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``plan``."""
    parser.add_argument("--repeats", type=int, default=5)


def sweep(length: int) -> list[ff.Plan]:
    """Radix 2 and radix 4 from several first blocks, radix 2 with wider upper levels, one level."""
    found = {ff.Plan.epoched(length, 1 << (length.bit_length() // 2 + 1)).block_sizes}
    for first in (8, 16, 32, 64):
        for narrow, wide in ((2, 2), (4, 4), (2, 4), (2, 8)):
            sizes = [first]
            while sizes[-1] * (narrow if sizes[-1] < 1024 else wide) < length:
                sizes.append(sizes[-1] * (narrow if sizes[-1] < 1024 else wide))
            found.add(tuple(sizes))
    return [ff.Plan(length, sizes) for sizes in sorted(found)]


def generation_times(
    caches: dict[str, ff.FutureFillCache], rows: Tensor, repeats: int
) -> dict[str, Times]:
    """Times of whole generations, each from an empty cache, all in turns."""
    if rows.device.type == "cuda":  # replays of a graph: else it is the host that is timed
        streams = {name: ReplayedStream(cache, rows) for name, cache in caches.items()}
        return measure(
            streams,
            device=rows.device,
            repeats=repeats,
            before={name: stream.start for name, stream in streams.items()},
        )
    tokens = rows.unbind(0)
    return measure(
        {name: partial(shapes.generate, cache, tokens) for name, cache in caches.items()},
        device=rows.device,
        repeats=repeats,
        before={name: cache.reset for name, cache in caches.items()},
    )


def run(args: argparse.Namespace) -> None:
    """Check the planned generation of every shape against float64, then time all in turns."""
    regrets = []
    quick = [(1, 32, 1024)]
    for batch, channels, length in quick if args.quick else args.shapes or SHAPES:
        planned = ff.make_plan(
            length, channels, batch_size=batch, dtype=args.dtype, device=args.device, impl=args.impl
        )
        plans = {"planned": planned}
        others = [
            plan for plan in sweep(length) if plan.block_sizes != plans["planned"].block_sizes
        ]
        plans |= {str(plan.block_sizes): plan for plan in others}
        check_memory(
            40 * (batch + 1) * channels * length * len(plans),
            f"plan of B={batch} D={channels} L={length} with {len(plans)} plans",
            args.device,
        )
        h = shapes.filters(channels, length, args.dtype, args.device)
        caches = {
            name: ff.FutureFillCache(h, batch, length, plan=plan, impl=args.impl)
            for name, plan in plans.items()
        }
        rows = shapes.make_rows(batch, channels, length, args.dtype, args.device)
        fields = {"B": batch, "D": channels, "L": length, "dtype": args.dtype}
        shapes.generate(caches["planned"], rows)
        error = shapes.generation_error(rows, h)
        times = generation_times(caches, rows, 1 if args.quick else args.repeats)
        ratios = {name: times["planned"].ratio(t) for name, t in times.items()}
        best = max(ratios, key=lambda name: ratios[name] if name != "planned" else 0.0)
        # the two again in memory of their own: where a state lies moves its time by a third
        caches.clear()
        caches = {
            name: ff.FutureFillCache(h, batch, length, plan=plans[name], impl=args.impl)
            for name in ("planned", best)
        }
        times = generation_times(caches, rows, 1 if args.quick else args.repeats)
        regret = times["planned"].ratio(times[best])
        tolerance = shapes.tolerance(args.dtype)
        for name in ("planned", best):
            args.report.add(
                "planned" if name == "planned" else "best of the sweep", **fields,
                impl=caches[name].impl, plan=plans[name], times=times[name],
                tokens=batch * length, error=error, tolerance=tolerance,
            )  # fmt: skip
        regrets.append(regret)
        args.report.add(
            "regret", **fields, error=error, tolerance=tolerance, quantity="planned / best",
            value=regret, note=f"{len(others)} other plans",
        )  # fmt: skip
    print(
        f"planned over best of the sweep: worst {max(regrets):.3f}, "
        f"median {statistics.median(regrets):.3f} of {len(regrets)} shapes"
    )
