"""One future fill of every block size, in turns with torch.fft doing the same tile."""

from __future__ import annotations

import argparse

import torch

import futurefill_kernels as ff
from futurefill_kernels.state.layout import from_tiles, to_tiles

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.rows import relative_error
from ..harness.timing import measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``fill``."""
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--smallest", type=int, default=16, help="first block; radix 2 follows")


def run(args: argparse.Namespace) -> None:
    """Per level: check its first fill against float64, then time it."""
    sizes = [(2, 24, 256)] if args.quick else args.shapes or [(1, 1024, 8192)]
    for batch, channels, length in sizes:
        check_memory(
            48 * (batch + 1) * channels * length,
            f"fill of B={batch} D={channels} L={length}",
            args.device,
        )
        plan = ff.Plan.continuous(length, args.smallest)
        h = shapes.filters(channels, length, args.dtype, args.device)
        cache = ff.FutureFillCache(h, batch, length, plan=plan, impl=args.impl)
        u = shapes.randn(batch, channels, length, seed=3, dtype=args.dtype, device=args.device)
        for level in cache.plan.levels:
            _level(args, cache, level.index, u, h)


def _level(
    args: argparse.Namespace,
    cache: ff.FutureFillCache,
    index: int,
    u: torch.Tensor,
    h: torch.Tensor,
) -> None:
    level, state = cache.plan.levels[index], cache.state
    block, ring = level.block, state.ring
    stop = min(2 * block, cache.max_new_tokens)
    accumulate = ring.dtype

    def clear() -> None:
        ring.zero_()
        ring[0, ..., :block, :] = to_tiles(u[..., :block].to(accumulate), state.layout)
        state.positions.fill_(block)

    def ours() -> None:
        cache.implementation.fill(state, level, None)

    clear()
    ours()
    found = from_tiles(ring[0, ..., block:stop, :], state.layout)
    expected = ff.future_fill(u[..., :block].double(), h.double(), stop - block)
    error = relative_error(found, expected)
    wide, pending = u.to(accumulate), torch.zeros(*u.shape, dtype=accumulate, device=u.device)
    spectrum = torch.fft.rfft(h[:, : 2 * block].to(accumulate), 2 * block)

    def with_torch() -> None:
        product = torch.fft.rfft(wide[..., :block], 2 * block) * spectrum
        filled = torch.fft.irfft(product, 2 * block)
        pending[..., block:stop] += filled[..., block:stop]

    with_torch()
    torch_error = relative_error(pending[..., block:stop], expected)
    times = measure(
        {"ours": ours, "torch.fft": with_torch},
        device=args.device,
        # on a GPU a fill finds its spectra in memory, not in the cache, and nobody waits for it
        replayed=("ours", "torch.fft"),
        cold=args.device.type == "cuda",
        repeats=2 if args.quick else args.repeats,
        before={"ours": clear},
    )
    entries, item = u.shape[0] * u.shape[1] * block, accumulate.itemsize
    fields = {
        "B": u.shape[0], "D": u.shape[1], "L": cache.max_new_tokens, "dtype": args.dtype,
        "quantity": "block", "value": float(block), "unit": "tokens", "tolerance": 1e-5,
        # a complex transform forth and back, products and sums; block, pending, spectra
        "flops": entries * (10 * (level.transform.bit_length() - 1) + 7),
        "bytes": entries * 3 * item + u.shape[1] * block * 2 * item,
    }  # fmt: skip
    each = 1e9 * times["ours"].p50 / entries
    note = f"{each:.3f} ns an entry, {each / max(1, (block - 1).bit_length()):.3f} a halving of it"
    args.report.add(
        "ours", **fields, impl=cache.impl, plan=cache.plan, times=times["ours"], error=error,
        note=note,
    )  # fmt: skip
    args.report.add(
        "torch.fft", **fields, impl="torch", times=times["torch.fft"], error=torch_error,
        baseline=("ours", times["ours"]),
    )  # fmt: skip
