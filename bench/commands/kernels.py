"""The convolutions of a model's token alone, fills left out: its history and steps.

A token is one graph of all layers' steps, each with both gates; its history is also timed by
itself. The least time is that of the compulsory bytes at the measured bandwidth.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import futurefill_kernels as ff

from ..harness import machine, shapes
from ..harness.implementations import names_of
from ..harness.machine import check_memory
from ..harness.rows import relative_error
from ..harness.timing import captured, measure, wall_seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``kernels``."""
    parser.set_defaults(impl="each")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--first-block", type=int, default=32, help="radix 2 follows")
    parser.add_argument("--repeats", type=int, default=9)


def run(args: argparse.Namespace) -> None:
    """Check a stream of each implementation against float64, then time."""
    sizes = args.shapes or [(1, 1024, 512), (8, 1024, 512)]
    if args.quick:
        sizes, args.layers, args.first_block, args.repeats = [(2, 24, 96)], 2, 8, 2
    for batch, channels, length in sizes:
        check_memory(
            16 * args.layers * (batch + 2) * channels * length,
            f"kernels of {args.layers} layers, B={batch} D={channels} L={length}",
            args.device,
        )
        for impl in names_of(args.impl, args.device, args.dtype):
            with args.report.guard("token", impl=impl, B=batch, D=channels):
                _shape(args, impl, batch, channels, length)


@torch.no_grad()
def _shape(args: argparse.Namespace, impl: str, batch: int, channels: int, length: int) -> None:
    h = shapes.filters(channels, length, device=args.device)
    plan = ff.Plan.continuous(length, min(args.first_block, length))
    cache = ff.FutureFillCache(
        [h] * args.layers, batch, length, plan=plan, impl=impl, dtype=args.dtype
    )
    u = shapes.randn(length, batch, channels, seed=8, dtype=args.dtype, device=args.device)
    fields = {
        "B": batch, "D": channels, "L": length, "layers": args.layers, "dtype": args.dtype,
        "impl": cache.impl, "plan": cache.plan,
    }  # fmt: skip
    bandwidth, _ = machine.roofs(args.threads, args.device)
    error, seconds = _tokens(args, cache, u, h)
    block = cache.plan.block_sizes[0]
    # half a block of older inputs, pending output and undo, and the new input; taps of every filter
    state = 4 * args.layers * (batch * (block / 2 + 3) + block / 2) * channels
    state += 4 * args.layers * batch * channels * args.dtype.itemsize
    args.report.add(
        "steps of a token", **fields, error=error, tolerance=shapes.tolerance(args.dtype),
        quantity="us per layer", value=1e6 * seconds / args.layers,
        note=f"fills left out; least {1e6 * state / bandwidth / args.layers:.2f} us",
    )  # fmt: skip
    history = cache.implementation.make_history(cache.state)
    if history is not None:
        times = measure(
            {"history": lambda: history(None)},
            device=args.device,
            repeats=args.repeats,
            replayed=["history"],
            before={"history": lambda: cache.state.positions.fill_(block // 2)},
        )["history"]
        args.report.add(
            "history", **fields, times=times, quantity="us per layer",
            value=1e6 * times.p50 / args.layers, note="one launch for all layers, inside a block",
        )  # fmt: skip
        cache.reset()


def _tokens(
    args: argparse.Namespace, cache: ff.FutureFillCache, u: Tensor, h: Tensor
) -> tuple[float, float]:
    """Error of a few tokens that feed through all layers, and seconds of a token's steps."""
    fed = torch.zeros_like(u[0])
    # gates that make outputs and inputs of equal size
    gate = torch.ones_like(fed)
    y = torch.empty_like(fed)

    def token() -> None:
        for layer in range(cache.layers):
            cache.step(fed, layer, pre=gate, post=gate, out=y)

    checked = min(cache.max_new_tokens, 3 * cache.plan.block_sizes[0] + 1)
    found = []
    for t in range(checked):
        fed.copy_(u[t])
        token()
        found.append(y.clone())
    expected = ff.causal_conv(u[:checked].permute(1, 2, 0).double(), h.double()).permute(2, 0, 1)
    error = relative_error(torch.stack(found), expected)
    cache.reset()
    repeats = 2 if args.quick else 7
    block = cache.plan.block_sizes[0]
    if args.device.type != "cuda" or not cache.capabilities.capturable:
        tokens = min(block, cache.max_new_tokens // (repeats + 1)) or 1
        times = measure(
            {"token": lambda: [token() for _ in range(tokens)]},
            device=args.device,
            repeats=repeats,
            before={"token": cache.reset},
        )
        cache.reset()
        return error, times["token"].p50 / tokens
    token()
    cache.reset()
    cache.begin_token()

    def without_books() -> None:
        with cache.capture():
            token()

    replay = captured(without_books, args.device)
    seconds = []
    for _ in range(repeats):
        cache.reset()
        # a block's tokens without the books between them: nothing but replays
        seconds.append(wall_seconds(args.device, lambda: [replay() for _ in range(block)]))
    cache.reset()
    return error, sorted(seconds)[len(seconds) // 2] / block
