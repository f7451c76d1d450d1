"""Bytes of state after prompts of different length, beside a KV cache of the same width."""

from __future__ import annotations

import argparse

import torch

import futurefill_kernels as ff
from futurefill_kernels.state.tensors import state_nbytes

from ..harness.machine import check_memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``memory``."""
    parser.add_argument("--prompts", default="0,1000,100000", help="lengths P; L is what follows")


def run(args: argparse.Namespace) -> None:
    """Prefill, step once, compare the bytes: equal for every P, and as the formula says."""
    shapes = args.shapes or [(1, 256, 4096), (1, 64, 16384)]
    prompts = [int(p) for p in args.prompts.split(",")]
    if args.quick:
        shapes, prompts = [(1, 16, 256)], [0, 10, 1000]
    for batch, channels, length in shapes:
        longest = max(prompts) + length
        check_memory(
            16 * channels * longest * (batch + 1),
            f"memory of B={batch} D={channels} L={longest}",
            args.device,
        )
        h = torch.randn(channels, longest, dtype=args.dtype, device=args.device)
        found = {p: _bytes_after(args, h, batch, length, p) for p in prompts}
        cache, _ = next(iter(found.values()))
        if cache.impl == "reference":
            expected = next(iter(found.values()))[1]
        else:
            expected = state_nbytes(cache.plan, cache.state.layout, layers=1, batch_size=batch)
        for prompt, (cache, size) in found.items():
            sizes = {"B": batch, "D": channels, "L": length, "P": prompt, "dtype": args.dtype}
            args.report.add(
                "ours", **sizes, impl=cache.impl, plan=cache.plan, error=abs(size - expected),
                tolerance=0.0, quantity="state and prepared filters", value=float(size),
                unit="bytes",
            )  # fmt: skip
            # keys and values of every position of one layer
            kv = 2 * batch * channels * (prompt + length) * args.dtype.itemsize
            args.report.add(
                "KV cache, same width", **sizes, quantity="keys and values", value=float(kv),
                unit="bytes", note="counted",
            )  # fmt: skip


def _bytes_after(
    args: argparse.Namespace, h: torch.Tensor, batch: int, length: int, prompt: int
) -> tuple[ff.FutureFillCache, int]:
    cache = ff.FutureFillCache(h, batch, length, impl=args.impl)
    if prompt:
        cache.prefill(torch.randn(batch, h.shape[0], prompt, dtype=h.dtype, device=h.device))
    cache.step(torch.randn(batch, h.shape[0], dtype=h.dtype, device=h.device))
    return cache, cache.nbytes
