"""The price of one ``cache.step`` call: one channel, no fill due."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.rows import relative_error
from ..harness.timing import measure

_BLOCK = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``step``."""
    parser.add_argument("--repeats", type=int, default=200, help=f"turns of {_BLOCK} calls")


def run(args: argparse.Namespace) -> None:
    """Check one block of steps, then time steps in turns with the cheapest op of torch."""
    repeats = 5 if args.quick else args.repeats
    place = {"dtype": args.dtype, "device": args.device}
    h = shapes.randn(1, _BLOCK, seed=0, **place)
    plan = ff.Plan(_BLOCK, (_BLOCK,))
    cache = ff.FutureFillCache(h, 1, _BLOCK, plan=plan, impl=args.impl)
    u = shapes.randn(1, 1, seed=1, **place)
    out = torch.zeros(1, 1, **place)
    y = torch.stack([cache.step(u) for _ in range(_BLOCK)], -1)
    error = relative_error(y, h.double().cumsum(1) * u.double())

    def calls(function: Callable[[], object]) -> Callable[[], object]:
        def block() -> None:
            for _ in range(_BLOCK):
                function()

        return block

    variants = {
        "cache.step(u)": calls(lambda: cache.step(u)),
        "cache.step(u, out=y)": calls(lambda: cache.step(u, out=out)),
        "y.add_(1), for scale": calls(lambda: out.add_(1)),
    }
    times = measure(
        variants,
        device=args.device,
        repeats=repeats,
        before=dict.fromkeys(variants, cache.reset),
    )
    for name, found in times.items():
        ours = name.startswith("cache")
        args.report.add(
            name, B=1, D=1, L=_BLOCK, dtype=args.dtype, impl=cache.impl if ours else "torch",
            times=found * (1 / _BLOCK), tokens=1, error=error if ours else None,
            tolerance=1e-6 if args.dtype.itemsize >= 4 else 2e-2, quantity="", note="per call",
        )  # fmt: skip
