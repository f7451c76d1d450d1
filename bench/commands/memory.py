"""Bytes of ours, of KV caches, of a naive cache and of a recurrence, at equal width."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

import futurefill_kernels as ff
from futurefill_kernels.implementations.select import cannot_run
from futurefill_kernels.state.tensors import state_nbytes

from ..harness.machine import check_memory

#: Real states of a channel of the recurrence.
STATES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``memory``."""
    parser.add_argument(
        "--prompts", default="0:16384,16384:4096,131072:4096", help="prompt:new tokens, ..."
    )
    parser.add_argument("--batches", default="1,8,64")


def run(args: argparse.Namespace) -> None:
    """Make every cache, compare its bytes with the formula, count those of the others."""
    pairs = [tuple(map(int, pair.split(":"))) for pair in args.prompts.split(",")]
    batches, channels = [int(b) for b in args.batches.split(",")], 32
    if args.quick:
        pairs, batches = [(0, 2048), (100, 1024)], [1, 2]
    for prompt, length in pairs:
        h = torch.randn(channels, prompt + length, dtype=args.dtype, device=args.device)
        for batch in batches:
            needed = 40 * channels * (prompt + length) * (1 + batch)
            check_memory(needed, f"memory of B={batch} P={prompt} L={length}", args.device)
            sizes = {
                "B": batch, "D": channels, "L": length, "P": prompt, "dtype": args.dtype
            }  # fmt: skip
            for name, cache, expected in _ours(args, h, batch, length, min(prompt, 1000)):
                scratch = cache.memory().workspace.get("scratch", 0)
                held = cache.nbytes - scratch
                args.report.add(
                    name, **sizes, impl=cache.impl, plan=cache.plan,
                    error=abs(held - expected), tolerance=0.0,
                    quantity="all that is held", value=float(held), unit="bytes",
                    note=f"and {scratch:,} bytes of threads, whatever there is of layers and rows",
                )  # fmt: skip
            for name, counted in _others(batch, channels, prompt + length):
                args.report.add(
                    name, **sizes, quantity="all that is held", value=float(counted),
                    unit="bytes", note="counted",
                )  # fmt: skip


def _ours(
    args: argparse.Namespace, h: torch.Tensor, batch: int, length: int, prompt: int
) -> Iterator[tuple[str, ff.FutureFillCache, int]]:
    """Caches after a prompt and two steps, and their bytes by the formula."""
    half = torch.bfloat16
    kinds = [("speed", args.dtype, None), ("small", args.dtype, None), ("small", half, None)]
    runs = cannot_run(args.device, args.dtype, ring_dtype=half)
    names = runs if args.impl == "auto" else (args.impl,)
    if args.dtype != torch.float64 and not all(runs[name] for name in names):
        kinds.append(("small", half, half))
    for memory, filters, state in kinds:
        cache = ff.FutureFillCache(
            h, batch, length, impl=args.impl, memory=memory, filters_dtype=filters,
            state_dtype=state,
        )  # fmt: skip
        u = torch.randn(batch, len(h), prompt + 2, dtype=h.dtype, device=h.device)
        if prompt:
            cache.prefill(u[..., :prompt])
        for t in (prompt, prompt + 1):  # the first of them can be taken back, with the prompt
            cache.step(u[..., t])
        expected = state_nbytes(
            cache.plan, cache.state.layout, layers=1, batch_size=batch,
            filters=tuple(h.shape), itemsize=cache.state.dtype.itemsize,
            filters_itemsize=filters.itemsize, ring_itemsize=cache.state.ring.itemsize,
        )  # fmt: skip
        name = f"ours, memory={memory!r}"
        if filters != args.dtype:
            name += ", bfloat16 filters" + (" and state" if state else "")
        yield name, cache, expected


def _others(batch: int, channels: int, positions: int) -> Iterator[tuple[str, int]]:
    """Names, and bytes that one layer of the same width holds after that many positions."""
    rows = batch * channels * positions
    yield "KV cache, bfloat16", 2 * rows * 2
    yield "KV cache, float32", 2 * rows * 4
    taps = channels * positions
    yield "naive convolution cache, bfloat16", 2 * (rows + taps)
    yield "naive convolution cache, float32", 4 * (rows + taps)
    # a state and, of every filter, poles and residues
    yield f"recurrence of {STATES} real states, float32", 4 * STATES * channels * (batch + 2)
