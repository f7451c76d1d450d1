"""A whole generation, one ``cache.step`` per token with ``u_{t+1} = y_t``."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

import futurefill_kernels as ff

TOLERANCE = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``stream``."""
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--length", type=int, default=65536)
    parser.add_argument("--block-sizes", default=None, help="for example 32,256,4096")
    parser.add_argument("--repeats", type=int, default=3)


def generate(cache: ff.FutureFillCache, u_0: Tensor, keep: bool) -> tuple[Tensor | None, float]:
    """One generation from the first input. Returns its inputs and outputs, and its seconds."""
    cache.reset()
    u, rows = u_0, []
    start = time.perf_counter()
    for _ in range(cache.max_new_tokens):
        u = cache.step(u)
        if keep:
            rows.append(u)
    seconds = time.perf_counter() - start
    return (torch.stack([u_0, *rows], dim=-1) if keep else None), seconds


def error_of(sequence: Tensor, h: Tensor, channels_at_a_time: int = 64) -> float:
    """Relative L2 error of the outputs against float64. sequence: (B, D, N + 1)."""
    squared, norm = 0.0, 0.0
    for c in range(0, h.shape[0], channels_at_a_time):
        part = slice(c, c + channels_at_a_time)
        expected = ff.causal_conv(sequence[:, part, :-1].double(), h[part].double())
        squared += (sequence[:, part, 1:].double() - expected).square().sum().item()
        norm += expected.square().sum().item()
    return (squared / norm) ** 0.5


def run(args: argparse.Namespace) -> None:
    """Check one generation against float64, then time others."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.quick:
        args.length, args.channels, args.repeats = 2048, 64, 1
    length, channels = args.length, args.channels
    # |filter|_1 <= 1 keeps the sequence bounded
    h = torch.randn(channels, length) * torch.rand(channels, 1) ** torch.linspace(0, 9, length)
    h /= h.abs().sum(1, keepdim=True)
    plan = None
    if args.block_sizes is not None:
        plan = ff.Plan(length, tuple(int(size) for size in args.block_sizes.split(",")))
    cache = ff.FutureFillCache(h, args.batch_size, length, plan=plan, impl=args.impl)
    u_0 = torch.randn(args.batch_size, channels)
    sequence, _ = generate(cache, u_0, keep=True)
    assert sequence is not None
    error = error_of(sequence, h)
    print(f"B={args.batch_size} D={channels} L={length} impl={cache.impl} threads={args.threads}")
    print(f"block sizes {cache.plan.block_sizes}")
    print(f"relative L2 error against float64: {error:.2e} (required <= {TOLERANCE:.0e})")
    if not error <= TOLERANCE:
        raise RuntimeError("the check failed: no time is printed")
    del sequence
    seconds = statistics.median(generate(cache, u_0, keep=False)[1] for _ in range(args.repeats))
    per = seconds / (args.batch_size * channels * length) * 1e9
    print(f"whole generation: {seconds:.2f} s, {per:.2f} ns per token and channel")
