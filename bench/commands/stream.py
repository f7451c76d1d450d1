"""Whole generations, ours and every peer: one step per token with ``u_{t+1} = y_t``.

Ours runs whole. A peer that would take minutes or hours is timed in parts that stand for the rest
(windows of tokens spread over the stream, fills of every size), added up with their number; the row
says which share of it was run. All take turns in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.replayed import ReplayedStream
from ..harness.rows import relative_error
from ..harness.timing import measure, weighted
from ..peers import Part, compiled, expected_output
from ..peers.attention import Attention
from ..peers.causal_conv1d_update import CausalConv1d
from ..peers.continuous import Continuous
from ..peers.epoched import Epoched
from ..peers.flash_fft_conv import FlashFFTConvolution
from ..peers.modal import Modal
from ..peers.modal_compiled import ModalCompiled
from ..peers.modal_triton import ModalTriton
from ..peers.naive import Naive
from ..peers.naive_fused import NaiveFused
from ..peers.naive_triton import NaiveTriton
from ..peers.recompute import Recompute

#: Relative error of single outputs that a float32 peer may have.
PEER_TOLERANCE = 1e-4


def modal_kind(device: torch.device) -> type[Modal]:
    """The fused recurrence of the device: Triton's, C++, or torch's where neither can be had."""
    if device.type == "cuda":
        return ModalTriton
    return ModalCompiled if compiled.is_available(device) else Modal


def modal(states: int, complex_poles: bool, h: Tensor, batch: int) -> Modal:
    """A modal recurrence of the same width."""
    kind = modal_kind(h.device)
    return kind.random(h.shape[0], states, batch, complex_poles, h.device)


def naive(h: Tensor, batch: int) -> Naive | NaiveTriton:
    """The naive cache, fused on a GPU."""
    return NaiveTriton(h, batch) if h.is_cuda else Naive(h, batch)


PEERS: dict[str, Callable[[Tensor, int], Any]] = {
    "naive": naive,
    "naive-fused": NaiveFused,
    "recompute": Recompute,
    "epoched": Epoched,
    "continuous": Continuous,
    "modal-16": partial(modal, 16, False),
    "modal-128": partial(modal, 128, False),
    "modal-800": partial(modal, 800, False),
    "modal-complex-16": partial(modal, 16, True),
    "modal-complex-128": partial(modal, 128, True),
    "attention": Attention,
    "causal-conv1d": CausalConv1d,
    "flashfftconv": FlashFFTConvolution,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``stream``."""
    parser.add_argument("--block-sizes", default=None, help="of our plan, for example 32,256,4096")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peers", default="all", help="'all', 'none' or some of " + ",".join(PEERS)
    )


def run(args: argparse.Namespace) -> None:
    """Check every variant against float64, then time those that passed, in turns."""
    sweep(args, [(1, 64, 1024)] if args.quick else args.shapes or [(1, 1024, 65536)])


def sweep(args: argparse.Namespace, sizes: list[tuple[int, int, int]]) -> None:
    """All shapes (B, D, L), with the peers of ``args.peers``."""
    names = {"all": list(PEERS), "none": []}.get(args.peers, args.peers.split(","))
    for name in names:
        if name not in PEERS:
            raise ValueError(f"unknown peer {name!r}; expected some of {', '.join(PEERS)}")
    if names and args.dtype != torch.float32:
        raise ValueError("the peers take float32 only; give --peers none with another --dtype")
    for batch, channels, length in sizes:
        # ours: filter, inputs and outputs twice, state; the batch shares the filters
        copies = 14 + sum(getattr(PEERS[name], "copies", 0) for name in names)
        check_memory(
            copies * (batch + 1) // 2 * args.dtype.itemsize * channels * length,
            f"stream of B={batch} D={channels} L={length} with {len(names)} peers",
            args.device,
        )
        compare(args, names, batch, channels, length)


def compare(
    args: argparse.Namespace, names: list[str], batch: int, channels: int, length: int
) -> None:
    """One shape."""
    fields = {"B": batch, "D": channels, "L": length, "dtype": args.dtype}
    h = shapes.filters(channels, length, args.dtype, args.device)
    plan = None
    if args.block_sizes is not None:
        plan = ff.Plan(length, tuple(int(size) for size in args.block_sizes.split(",")))
    cache = ff.FutureFillCache(h, batch, length, plan=plan, impl=args.impl)
    rows = shapes.make_rows(batch, channels, length, args.dtype, args.device)
    shapes.generate(cache, rows)
    error = shapes.generation_error(rows, h)
    ours_ok = error <= shapes.tolerance(args.dtype)
    peers, parts, errors = {}, {}, {}
    for name in names:
        reason = getattr(PEERS[name], "unavailable", lambda device: None)(args.device)
        if reason is not None:
            args.report.add(name, status=reason, **fields)
            continue
        peers[name] = PEERS[name](h, batch)
        parts[name] = peers[name].parts(rows)
        errors[name] = max(part_error(peers[name], part, rows, h) for part in parts[name])
    calls: dict[str, Callable[[], object]] = {}
    prepare: dict[str, Callable[[], object]] = {}
    replayed = []
    if ours_ok:
        tokens = rows.clone().unbind(0)
        calls["ours"], prepare["ours"] = partial(shapes.generate, cache, tokens), cache.reset
    for name in peers:
        if errors[name] <= peer_tolerance(peers[name], args.device):
            for i, part in enumerate(parts[name]):
                calls[f"{name}/{i}"], prepare[f"{name}/{i}"] = part.call, part.prepare
                if getattr(peers[name], "replayed", True):
                    replayed.append(f"{name}/{i}")
    graphed_error = None
    if args.device.type == "cuda" and cache.capabilities.capturable:
        graphed = ReplayedStream(
            ff.FutureFillCache(h, batch, length, plan=cache.plan, impl=cache.impl), rows.clone()
        )
        graphed.start()
        graphed()
        graphed_error = shapes.generation_error(graphed.rows, h)
        if graphed_error <= shapes.tolerance(args.dtype):
            calls["graph"], prepare["graph"] = graphed, graphed.start
    # the checks were the warm-up
    times = measure(
        calls,
        device=args.device,
        repeats=1 if args.quick else args.repeats,
        warmup=0,
        replayed=replayed,
        before=prepare,
    )
    ours = times.get("ours")
    args.report.add(
        "ours", **fields, impl=cache.impl, plan=cache.plan, times=ours, tokens=batch * length,
        error=error, tolerance=shapes.tolerance(args.dtype),
        **shapes.stream_cost(cache.plan, batch, channels, channels, args.dtype.itemsize),
    )  # fmt: skip
    if graphed_error is not None:
        args.report.add(
            "ours, a graph per token", **fields, impl=cache.impl, plan=cache.plan,
            times=times.get("graph"), tokens=batch * length, error=graphed_error,
            tolerance=shapes.tolerance(args.dtype),
        )  # fmt: skip
    for name, peer in peers.items():
        found, run_share = None, 1.0
        if f"{name}/0" in times:
            each = [times[f"{name}/{i}"] for i in range(len(parts[name]))]
            found = weighted([(part.weight, t) for part, t in zip(parts[name], each, strict=True)])
            run_share = sum(t.p50 for t in each) / found.p50
        args.report.add(
            peer.name, **fields, times=found, tokens=batch * length,
            states=getattr(peer, "states", ""), error=errors[name],
            tolerance=peer_tolerance(peer, args.device),
            baseline=None if ours is None or found is None else ("ours", ours),
            note="" if run_share > 0.99 else f"sampled: {100 * run_share:.2g}% of it was run",
        )  # fmt: skip


def peer_tolerance(peer: Any, device: torch.device) -> float:
    """Relative error of its outputs: attention computes in bfloat16 on a GPU."""
    rounds = device.type == "cuda" and isinstance(peer, Attention | FlashFFTConvolution)
    return shapes.tolerance(torch.bfloat16) if rounds else PEER_TOLERANCE


def part_error(peer: Any, part: Part, rows: Tensor, h: Tensor) -> float:
    """Run a part once; the error of its last output against float64, 0 when it has none."""
    part.prepare()
    found = part.call()
    if found is None:
        return 0.0
    if peer.exact:
        expected = expected_output(rows, h, part.position)
    else:
        expected = peer.expected(rows, part.position)
    return relative_error(found[:, : expected.shape[1]], expected)
