"""The price of one ``cache.step`` call: one channel, no fill due; and that of a block of a stream
with fills in one ``cache.run`` of each layer.

"over the engine" is the median over the turns of a step's time less that of an empty method that is
called alike and that of the engine, which takes the same steps in one call.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.rows import relative_error
from ..harness.timing import measure

_BLOCK = 256
_FRAMES, _LENGTH = 64, 32768  # of a block, and of the stereo stream that it belongs to
_ENGINE = "the engine, many steps in one call"
_EMPTY = "an empty method, for scale"


class _Empty:
    """Has a method that is called like a cache's step and does nothing."""

    def step(
        self, u_t: Tensor, layer: int = 0, *, pre: Tensor | None = None,
        post: Tensor | None = None, rows: Tensor | None = None, out: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return u_t


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``step``."""
    parser.add_argument("--repeats", type=int, default=200, help=f"turns of {_BLOCK} calls")


def run(args: argparse.Namespace) -> None:
    """Single steps, then blocks."""
    _steps(args)
    _blocks(args)


def _steps(args: argparse.Namespace) -> None:
    """Check one block of steps, then time steps in turns with the cheapest op of torch."""
    repeats = 5 if args.quick else args.repeats
    place = {"dtype": args.dtype, "device": args.device}
    h = shapes.randn(1, _BLOCK, seed=0, **place)
    plan = ff.Plan(_BLOCK, (_BLOCK,))
    cache = ff.FutureFillCache(h, 1, _BLOCK, plan=plan, impl=args.impl)
    u = shapes.randn(1, 1, seed=1, **place)
    out, gate, empty = torch.zeros(1, 1, **place), torch.ones(1, 1, **place), _Empty().step
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
        "cache.step(u, pre=, post=, out=y)": calls(
            lambda: cache.step(u, pre=gate, post=gate, out=out)
        ),
        "y.add_(1), for scale": calls(lambda: out.add_(1)),
        _EMPTY: calls(lambda: empty(u, out=out)),
    }
    if cache.impl == "cpu":
        rows = torch.zeros(_BLOCK, 1, 1, **place)
        variants[_ENGINE] = lambda: ff.ops.generate(cache.state, u, rows)
    times = measure(
        variants,
        device=args.device,
        repeats=repeats,
        before=dict.fromkeys(variants, cache.reset),
    )
    for name, found in times.items():
        ours = name.startswith("cache") or name == _ENGINE
        note = "per call"
        if name.startswith("cache") and _ENGINE in times:
            turns = zip(*(x.seconds for x in (found, times[_EMPTY], times[_ENGINE])), strict=True)
            over = statistics.median(step - call - engine for step, call, engine in turns)
            note += f", {1e6 * over / _BLOCK:.2f} us over the engine"
        args.report.add(
            name, B=1, D=1, L=_BLOCK, dtype=args.dtype, impl=cache.impl if ours else "torch",
            times=found * (1 / _BLOCK), tokens=1, error=error if ours else None,
            tolerance=1e-6 if args.dtype.itemsize >= 4 else 2e-2, quantity="", note=note,
        )  # fmt: skip


def _blocks(args: argparse.Namespace) -> None:
    """Blocks of audio frames through one layer, through two, and under a plan with slack."""
    plan = ff.make_plan(_LENGTH, 2, dtype=args.dtype, device=args.device)
    _block(args, plan, 1)
    _block(args, plan, 2)
    _block(args, replace(plan, slack_from=plan.block_sizes[-1]), 1)


def _block(args: argparse.Namespace, plan: ff.Plan, layers: int) -> None:
    """One call of each layer for each block, single steps, and of one layer the engine alone."""
    place = {"dtype": args.dtype, "device": args.device}
    u, h = shapes.randn(1, 2, _LENGTH, seed=3, **place), []
    for layer in range(layers):
        h.append(shapes.randn(2, _LENGTH, seed=2 + 2 * layer, **place) / _LENGTH**0.5)
    cache = ff.FutureFillCache(h, 1, _LENGTH, plan=plan, impl=args.impl)
    parts = u.split(_FRAMES, -1)[: 10 if args.quick else -1]
    tokens = [u_t.clone() for part in parts for u_t in part.unbind(-1)]

    def through(part: Tensor) -> Tensor:
        for layer in range(layers):
            part = cache.run(part, layer)
        return part

    def steps() -> None:
        for u_t in tokens:
            for layer in range(layers):
                u_t = cache.step(u_t, layer)

    y = torch.cat([through(part) for part in parts], -1)
    expected = u[..., : y.shape[-1]].double()
    for taps in h:
        expected = ff.causal_conv(expected, taps.double())
    variants: dict[str, Callable[[], object]] = {
        f"cache.run(u), {_FRAMES} frames": lambda: [through(part) for part in parts],
        f"cache.step(u), {_FRAMES} frames": steps,
    }
    slack = plan.slack_from is not None
    if cache.impl == "cpu" and layers == 1 and not slack:
        first, rows = u[..., 0].contiguous(), torch.zeros(len(tokens), 1, 2, **place)
        variants[_ENGINE] = lambda: ff.ops.generate(cache.state, first, rows)
    times = measure(
        variants,
        device=args.device,
        repeats=3 if args.quick else args.repeats // 10,
        before=dict.fromkeys(variants, cache.reset),
    )
    note = f"per {_FRAMES} frames" + (f", slack from {plan.slack_from}" if slack else "")
    for name, found in times.items():
        args.report.add(
            name, B=1, D=2, L=_LENGTH, layers=layers, dtype=args.dtype, impl=cache.impl, plan=plan,
            times=found * (1 / len(parts)), tokens=_FRAMES, error=relative_error(y, expected),
            tolerance=shapes.tolerance(args.dtype), quantity="", note=note,
        )  # fmt: skip
