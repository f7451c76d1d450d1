"""Where a recurrence wins: exact decoding against modal recurrences by state size.

Two parts: speed by state size over L, with the size at which both take the same time; and the
shipped model's filters distilled to s states, with the filters' error and the bits per byte lost.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

import futurefill_kernels as ff
from futurefill_kernels.cli.corpus import standard_library
from futurefill_kernels.cli.evaluate import parallel_bits, windows
from futurefill_kernels.nn.filters import LongFilter

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.rows import relative_error
from ..harness.timing import measure
from ..peers.modal import Modal
from . import distill
from .stream import PEER_TOLERANCE, modal, modal_kind

STATES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 800)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``crossover``."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--states", default=",".join(map(str, STATES)))
    parser.add_argument(
        "--distil", default="2,4,8,16,32,64", help="states for the shipped model; '' for none"
    )
    parser.add_argument("--taps", type=int, default=2048, help="of the distilled filters")
    parser.add_argument("--windows", type=int, default=16, help="held-out windows to score")


def run(args: argparse.Namespace) -> None:
    """Both parts."""
    sizes = args.shapes or [(1, 1024, 4096), (1, 1024, 65536), (1, 128, 1048576)]
    states = [int(s) for s in args.states.split(",") if s]
    distilled = [int(s) for s in args.distil.split(",") if s]
    if args.quick:
        sizes, states, distilled = [(1, 32, 512)], [2, 64], [4]
        args.taps, args.windows = 256, 2
    if states:
        for batch, channels, length in sizes:
            _speed(args, batch, channels, length, states)
    if distilled:
        _distilled(args, distilled)


def _speed(
    args: argparse.Namespace, batch: int, channels: int, length: int, states: list[int]
) -> None:
    fields = {"B": batch, "D": channels, "L": length, "dtype": torch.float32}
    largest = 16 * max(states) * channels * batch
    check_memory(
        40 * (batch + 1) * channels * length + largest,
        f"crossover of B={batch} D={channels} L={length}",
        args.device,
    )
    h = shapes.filters(channels, length, device=args.device)
    cache = ff.FutureFillCache(h, batch, length, impl=args.impl)
    rows = shapes.make_rows(batch, channels, length, torch.float32, args.device)
    shapes.generate(cache, rows)
    # every channel of a million tokens in float64 would take minutes
    some = slice(0, max(1, min(channels, 2**24 // length)))
    error = shapes.generation_error(rows[..., some], h[some])
    calls, before, peers, errors = {}, {}, {}, {}
    if error <= shapes.tolerance(torch.float32):
        tokens = rows.clone().unbind(0)
        calls["ours"], before["ours"] = partial(shapes.generate, cache, tokens), cache.reset
    for s, is_complex in itertools.product(states, (False, True)):
        peer = modal(s, is_complex, h, batch)
        (part,) = peer.parts(rows)
        part.prepare()
        found = part.call()
        assert found is not None
        expected = peer.expected(rows, part.position)
        key = f"{s}/{is_complex}"
        peers[key] = (peer, part)
        errors[key] = relative_error(found[:, : expected.shape[1]], expected)
        if errors[key] <= PEER_TOLERANCE:
            calls[key], before[key] = part.call, part.prepare
    times = measure(
        calls,
        device=args.device,
        repeats=1 if args.quick else args.repeats,
        warmup=0,
        replayed=[name for name in calls if name != "ours"],
        before=before,
    )
    ours = times.get("ours")
    args.report.add(
        "ours", **fields, impl=cache.impl, plan=cache.plan, times=ours, tokens=batch * length,
        error=error, tolerance=shapes.tolerance(torch.float32),
        note=f"error over {some.stop} channels",
    )  # fmt: skip
    curves: dict[str, list[tuple[int, float]]] = {}
    for key, (peer, part) in peers.items():
        found_times = times[key] * part.weight if key in times else None
        args.report.add(
            peer.name, **fields, states=peer.states, times=found_times,
            tokens=batch * length, error=errors[key], tolerance=PEER_TOLERANCE,
            baseline=None if ours is None or found_times is None else ("ours", ours),
            note="" if part.weight <= 1 else f"sampled: 1/{part.weight:.0f} of its tokens were run",
        )  # fmt: skip
        if ours is not None and found_times is not None:
            curves.setdefault(peer.name, []).append((peer.states, found_times.ratio(ours)))
    for name, curve in curves.items():
        size, text = crossing(curve)
        args.report.add(
            name, **fields, quantity="crossover state size", value=size, unit="states", note=text
        )


def crossing(curve: list[tuple[int, float]]) -> tuple[float, str]:
    """State size at which time(modal) / time(ours) is 1, log-log interpolated, and a remark.

    curve: (states, ratio), states ascending.
    """
    if all(ratio >= 1 for _, ratio in curve):
        return float(curve[0][0]), "exact decoding is faster at every size tried"
    for (s, low), (t, high) in reversed(list(itertools.pairwise(curve))):  # the last crossing
        if low < 1 <= high:
            share = -math.log(low) / (math.log(high) - math.log(low))
            return s * (t / s) ** share, "larger states: exact decoding is faster"
    return float(curve[-1][0]), "the recurrence is faster at every size tried"


def _distilled(args: argparse.Namespace, states: list[int]) -> None:
    """Speed, filter error and bits per byte of the shipped model's filters as s states."""
    model, corpus = ff.nn.load_model().to(args.device), standard_library()
    filters = [m for m in model.modules() if isinstance(m, LongFilter)]
    with torch.no_grad():
        taps = [f.taps(args.taps) for f in filters]
    batches = [
        (ids.to(args.device), lengths.to(args.device))
        for ids, lengths in windows(corpus, args.taps, 1, args.windows)
    ]
    scored = sum(int(lengths.sum()) for _, lengths in batches)
    exact = sum(parallel_bits(model, *batch) for batch in batches) / scored
    channels, length = taps[0].shape[0], 256 if args.quick else 16384
    exact_taps = filters_of(filters, length)
    cache = ff.FutureFillCache(exact_taps, 1, length, impl=args.impl)
    u = shapes.randn(1, channels, seed=7, device=args.device)
    # a constant input: the last output is the input times the sum of the taps
    found = torch.cat(_steps(cache, u, len(filters), length))
    expected = torch.cat([u.double() * h.double().sum(1) for h in exact_taps])
    error = relative_error(found, expected)
    fields = {"B": 1, "D": channels, "layers": len(filters), "dtype": torch.float32}
    # least squares of torch's CPU
    modes = {
        s: [[x.to(args.device) for x in distill.to_modes(h.cpu(), s)] for h in taps] for s in states
    }
    calls = {"ours": partial(_steps, cache, u, len(filters), length)}
    tokens = 16 if args.quick else 256
    kind = modal_kind(args.device)
    for s in states:
        peers = [kind(poles, weights, 1) for poles, weights in modes[s]]
        calls[str(s)] = partial(_modal_steps, peers, u, tokens)
    times = measure(
        calls,
        device=args.device,
        repeats=1 if args.quick else args.repeats,
        replayed=[name for name in calls if name != "ours"],
        before={"ours": cache.reset},
    )
    args.report.add(
        "ours, exact filters", **fields, L=length, impl=cache.impl, plan=cache.plan,
        times=times["ours"] * (1 / length), tokens=1, error=error, tolerance=1e-5,
        quantity="bits per byte", value=exact, note=f"per token; {scored} held-out bytes",
    )  # fmt: skip
    for s in states:
        approximated = [distill.taps_of(*mode, args.taps) for mode in modes[s]]
        difference = torch.cat(approximated) - torch.cat(taps)
        with replaced(filters, approximated):
            bits = sum(parallel_bits(model, *batch) for batch in batches) / scored
        per_token = times[str(s)] * (1 / tokens)
        args.report.add(
            "distilled to s states", **fields, L=length, states=s, times=per_token,
            tokens=1, baseline=("ours, exact filters", times["ours"] * (1 / length)),
            error=float(difference.norm() / torch.cat(taps).norm()), quantity="bits per byte lost",
            value=bits - exact, note="per token; error is the filters'",
        )  # fmt: skip


def filters_of(filters: list[LongFilter], length: int) -> list[Tensor]:
    """Taps of every filter, (D, length) each."""
    with torch.no_grad():
        return [f.taps(length).contiguous() for f in filters]


@contextmanager
def replaced(filters: list[LongFilter], taps: list[Tensor]) -> Iterator[None]:
    """Inside, the modules convolve with these taps, zero after their end."""

    def of(h: Tensor, length: int) -> Tensor:
        return nn.functional.pad(h[:, :length], (0, max(0, length - h.shape[1])))

    for module, h in zip(filters, taps, strict=True):
        module.taps = partial(of, h)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in filters:
            del module.taps


def _steps(cache: ff.FutureFillCache, u: Tensor, layers: int, length: int) -> list[Tensor]:
    for _ in range(length):
        y = [cache.step(u, layer) for layer in range(layers)]
    return y


def _modal_steps(peers: list[Modal], u: Tensor, tokens: int) -> None:
    for _ in range(tokens):
        for peer in peers:
            peer.step(u)
