"""Rows of a stream moved, copied and forgotten, beside a plain copy of the bytes that they use.

A reorder exchanges rows that have nothing in common, two and two; that of a beam search, whose best
half goes on twice, comes right after the step of all rows that it is compared with. A reset, which
comes once a request, is timed with cold caches and with the first step of its row, which clears
what is used, beside a fill with zeros and a step of a row that was never used. A clone takes new
memory, whose pages the system makes when they are touched, and so does the copy beside it; the copy
of a reorder goes to memory that is there.
"""

from __future__ import annotations

import argparse
import mmap
from functools import partial

import torch

import futurefill_kernels as ff
from futurefill_kernels.cache.used import parts, used_slots

from ..harness import shapes
from ..harness.rows import relative_error
from ..harness.timing import measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rows``."""
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--positions", default="500,4000,12000")


def run(args: argparse.Namespace) -> None:
    """Every shape at every position."""
    sizes = args.shapes or [(4, 256, 16384)]
    positions = [int(p) for p in args.positions.split(",")]
    if args.quick:
        sizes, positions, args.repeats = [(4, 8, 256)], [100], 3
    for batch, channels, length in sizes:
        h = shapes.filters(channels, length, device=args.device)
        cache = ff.FutureFillCache(h, batch, length, impl=args.impl)
        u = shapes.randn(batch, channels, length, seed=1, device=args.device)
        for position in positions:
            _at(args, cache, u, position)


def _at(
    args: argparse.Namespace, cache: ff.FutureFillCache, u: torch.Tensor, position: int
) -> None:
    batch, channels, length = u.shape
    cache.reset()
    cache.run(u[..., :position])
    cache.launch_fills()
    half = [row // 2 * 2 for row in range(batch)]
    cache.reorder(half)
    now = u[half, :, position]
    expected = u[half, :, : position + 1].flip(-1).double()
    expected = (expected * cache.state.filters[0, :, : position + 1].double()).sum(-1)
    error = relative_error(cache.clone().step(now), expected)
    slots, state = used_slots(cache.plan, position), cache.state
    row_bytes = sum(x.row_nbytes for x in parts(state, {position}, slots, 0))
    all_rows = torch.ones(batch * row_bytes // 4)
    target, zero = torch.empty_like(all_rows), torch.ones(slots * state.layout.lanes)
    zero = zero.repeat(state.layout.tiles)
    fresh = ff.FutureFillCache(
        [cache.state.filters[0]], batch, length, plan=cache.plan, impl=cache.impl
    )
    out, some = torch.empty_like(now), now[:1]
    exchanged, beams = [(row + batch // 2) % batch for row in range(batch)], cache.clone()

    def into_new_memory() -> torch.Tensor:
        memory = mmap.mmap(-1, all_rows.nbytes)
        return torch.frombuffer(memory, dtype=torch.float32).copy_(all_rows)

    def again(cache: ff.FutureFillCache) -> None:
        cache.reset([0])
        cache.step(some, rows=[0])

    def clear_and_step() -> None:
        zero.zero_()
        fresh.step(some, rows=[0])

    restored = cache.clone()
    variants = {
        "a plain step": lambda: beams.step(now, out=out),
        "reorder of a beam search": lambda: beams.reorder(half),
        "reorder": lambda: cache.reorder(exchanged),
        "its bytes copied": lambda: target.copy_(all_rows),
        "reorder that changes nothing": lambda: cache.reorder(range(batch)),
        "clone": cache.clone,
        "its bytes into new memory": into_new_memory,
    }
    resets = {
        "reset and step of a row": partial(again, restored),
        "its bytes cleared, a step": clear_and_step,
    }
    before = {
        "reset and step of a row": lambda: restored.reorder([1, *range(1, batch)]),
        "its bytes cleared, a step": lambda: fresh.reset([0]),
    }
    times = measure(variants, device=args.device, repeats=args.repeats)
    times |= measure(resets, device=args.device, repeats=args.repeats, before=before, cold=True)
    against = {
        "reorder": "its bytes copied", "clone": "its bytes into new memory",
        "reorder of a beam search": "a plain step",
        "reset and step of a row": "its bytes cleared, a step",
        "reorder that changes nothing": "a plain step",
    }  # fmt: skip
    for name, found in times.items():
        base = against.get(name)
        note = f"at position {position}"
        if name.startswith("reorder"):
            note += f", {found.ratio(times['a plain step']):.2f} plain steps"
        args.report.add(
            name, B=batch, D=channels, L=length, dtype=args.dtype, impl=cache.impl, plan=cache.plan,
            times=found, error=error, tolerance=2e-6,
            baseline=None if base is None else (base, times[base]), note=note,
        )  # fmt: skip
