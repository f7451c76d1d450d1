"""A prompt in calls of so many positions and one step, which begins with the future fill; beside
one call and that step, in turns.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.rows import relative_error
from ..harness.timing import measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``chunks``."""
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=65536, help="positions")
    parser.add_argument("--sizes", default="512", help="positions of a call")


def run(args: argparse.Namespace) -> None:
    """Every shape with every size of calls."""
    found = args.shapes or [(1, 16, 64), (1, 64, 64), (4, 64, 64), (1, 256, 64)]
    sizes, prompt = [int(n) for n in args.sizes.split(",")], args.prompt
    if args.quick:
        found, sizes, prompt, args.repeats = [(2, 8, 16)], [7, 64], 300, 1
    for batch, channels, length in found:
        check_memory(
            100 * (batch + 1) * channels * prompt,
            f"prompts of B={batch} D={channels} P={prompt}", args.device,
        )  # fmt: skip
        _prompt(args, (batch, channels, length), prompt, sizes)


def _prompt(
    args: argparse.Namespace, shape: tuple[int, int, int], prompt: int, sizes: list[int]
) -> None:
    batch, channels, length = shape
    h = shapes.filters(channels, prompt + length, args.dtype, args.device)
    u = shapes.randn(batch, channels, prompt + 1, seed=6, dtype=args.dtype, device=args.device)
    cache = ff.FutureFillCache(h, batch, length, impl=args.impl, dtype=args.dtype)

    def in_calls(size: int) -> list[Tensor]:
        calls = range(0, prompt, size)
        found = [cache.prefill(u[..., t : min(t + size, prompt)]) for t in calls]
        return [*found, cache.step(u[..., prompt])[..., None]]

    variants = {"one call": partial(in_calls, prompt)}
    variants |= {f"calls of {size}": partial(in_calls, size) for size in sizes}
    expected, errors = ff.causal_conv(u.double(), h.double()), {}
    for name, call in variants.items():
        cache.reset()
        errors[name] = relative_error(torch.cat(call(), -1), expected)
    times = measure(
        variants, device=args.device, repeats=args.repeats,
        before=dict.fromkeys(variants, cache.reset),
    )  # fmt: skip
    one = times["one call"]
    for name, here in times.items():
        args.report.add(
            name, B=batch, D=channels, L=length, P=prompt, dtype=args.dtype, impl=cache.impl,
            plan=cache.plan, times=here, tokens=batch * prompt, error=errors[name],
            tolerance=shapes.tolerance(args.dtype),
            note="" if here is one else f"{here.ratio(one):.2f} of one call",
        )  # fmt: skip
