"""A prompt in calls of so many positions and one step, which begins with the future fill; beside
one call and that step, in turns. With ``--radix`` also the fills of its large levels alone.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

import futurefill_kernels as ff
from futurefill_kernels.state.prompt_blocks import (
    add_fill,
    new_kept,
    new_slots,
    new_spectra,
    write_spectrum,
)

from ..harness import shapes
from ..harness.implementations import names_of
from ..harness.machine import check_memory
from ..harness.rows import relative_error
from ..harness.timing import measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``chunks``."""
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=65536, help="positions")
    parser.add_argument("--sizes", default="512", help="positions of a call")
    parser.add_argument(
        "--radix",
        default="",
        help="also fills from a block of a 16th of the prompt on, by its level's radix: 2,4,8,16",
    )


def run(args: argparse.Namespace) -> None:
    """Every shape with every size of calls."""
    found = args.shapes or [(1, 16, 64), (1, 64, 64), (4, 64, 64), (1, 256, 64)]
    sizes, prompt = [int(n) for n in args.sizes.split(",")], args.prompt
    radices = [int(n) for n in args.radix.split(",") if n]
    if args.quick:
        found, sizes, prompt, radices, args.repeats = [(2, 8, 16)], [7, 64], 300, [2, 16], 1
    for batch, channels, length in found:
        check_memory(
            100 * (batch + 1) * channels * prompt,
            f"prompts of B={batch} D={channels} P={prompt}", args.device,
        )  # fmt: skip
        for impl in names_of(args.impl, args.device, args.dtype):
            with args.report.guard("prompt", impl=impl, B=batch, D=channels, P=prompt):
                _prompt(args, impl, (batch, channels, length), prompt, sizes)
        if args.quick or (radices and batch == 1):
            _fills(args, channels, 1 << (prompt.bit_length() - 5), radices)


def _fills(args: argparse.Namespace, channels: int, smallest: int, radices: list[int]) -> None:
    """All fills of one row's large levels, with spectra that are there and room for transforms:
    what a larger radix of the smallest of them gains at best.

    smallest: their smallest block, of 16 in the prompt.
    """
    prompt, device = 16 * smallest, args.device
    h = shapes.filters(channels, prompt, args.dtype, device)
    slots = new_slots(1, channels, prompt, args.dtype, device)
    spectra = {}
    for block in (smallest << i for i in range(4)):
        count = 15 if block == smallest else 1
        spectra[block] = new_spectra(h, channels, block, count, args.dtype)
        for k in range(count):
            write_spectrum(h, spectra[block][:, k], channels, block, k + 1, args.dtype)
    kept = new_kept(1, spectra[smallest], channels, 15)
    nothing = {block: new_kept(1, x, channels, 0) for block, x in spectra.items()}

    def fill(radix: int) -> None:
        for p in range(smallest, prompt, smallest):
            slot = p // smallest % radix
            if slot:
                add_fill(slots, spectra[smallest], kept, channels, p, smallest, slot)
            else:
                block = p & -p
                add_fill(slots, spectra[block], nothing[block], channels, p, block, 1)

    variants = {f"radix {radix} from {smallest}": partial(fill, radix) for radix in radices}
    times = measure(
        variants, device=device, repeats=args.repeats,
        before=dict.fromkeys(variants, slots.normal_),
    )  # fmt: skip
    first = next(iter(times.values()))
    for name, here in times.items():
        args.report.add(
            name, B=1, D=channels, P=prompt, dtype=args.dtype, times=here,
            note="" if here is first else f"{here.ratio(first):.2f} of radix {radices[0]}",
        )  # fmt: skip


def _prompt(
    args: argparse.Namespace, impl: str, shape: tuple[int, int, int], prompt: int, sizes: list[int]
) -> None:
    batch, channels, length = shape
    h = shapes.filters(channels, prompt + length, args.dtype, args.device)
    u = shapes.randn(batch, channels, prompt + 1, seed=6, dtype=args.dtype, device=args.device)
    cache = ff.FutureFillCache(h, batch, length, impl=impl, dtype=args.dtype)

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
