"""Error over position for every plan, dtype and implementation; bits per byte with less kept.

Part one streams fixed inputs and compares with a float64 convolution, position by position in
octaves. Part two scores held-out bytes with the shipped model in decode mode while the state, the
filters' spectra or the filters' length is reduced. Part three does so with its weights in every
dtype: what rounding the whole model costs. Part four streams the inputs of part one with a state
in 16 bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

import futurefill_kernels as ff
from futurefill_kernels.cli.corpus import standard_library
from futurefill_kernels.cli.evaluate import bits, parallel_bits, windows
from futurefill_kernels.decoding.model_cache import DecodingCache
from futurefill_kernels.implementations.select import cannot_run
from futurefill_kernels.nn.filters import LongFilter
from futurefill_kernels.nn.language_model import LanguageModel

from ..harness import shapes
from ..harness.rows import relative_error
from ..peers.naive import Naive
from .crossover import filters_of, replaced

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``accuracy``."""
    parser.add_argument("--parts", default="position,bits,weights,state", help="which of them")
    parser.add_argument("--window", type=int, default=1024, help="held-out bytes per row")
    parser.add_argument("--windows", type=int, default=16, help="rows")


def run(args: argparse.Namespace) -> None:
    """The parts named in --parts. --impl auto means every implementation that can run here."""
    known = {
        "position": _positions, "bits": _bits_per_byte, "weights": _weights, "state": _states,
    }  # fmt: skip
    parts = args.parts.split(",")
    unknown = sorted(set(parts) - set(known))
    if unknown:
        raise ValueError(f"unknown parts {unknown}; expected some of {', '.join(known)}")
    if args.quick:
        args.window, args.windows = 64, 2
    for part in parts:
        known[part](args)


def _positions(args: argparse.Namespace) -> None:
    sizes = [(1, 4, 256)] if args.quick else args.shapes or [(1, 16, 8192)]
    for batch, channels, length in sizes:
        _over_position(args, batch, channels, length)


def _states(args: argparse.Namespace) -> None:
    sizes = [(1, 4, 256)] if args.quick else args.shapes or [(1, 16, 8192)]
    for batch, channels, length in sizes:
        h = shapes.filters(channels, length, device=args.device)
        u = shapes.randn(length, batch, channels, seed=4, device=args.device)
        expected = ff.causal_conv(u.permute(1, 2, 0).double(), h.double()).permute(2, 0, 1)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            cache = ff.FutureFillCache(h, batch, length, impl=args.impl, state_dtype=dtype)
            y = torch.stack([cache.step(u_t) for u_t in u])
            name = f"state in {str(dtype).removeprefix('torch.')}"
            _octaves(args, name, y, expected, dtype, cache.plan, cache.impl)


def _over_position(args: argparse.Namespace, batch: int, channels: int, length: int) -> None:
    h = shapes.filters(channels, length, device=args.device)
    u = shapes.randn(length, batch, channels, seed=4, device=args.device)
    base = min(32, length)
    plans = {
        "planned": ff.make_plan(length, channels, batch_size=batch, device=args.device),
        "Epoched": ff.Plan.epoched(length, max(1, round(length**0.5))),
        "Continuous": ff.Plan.continuous(length, base),
        "one block": ff.Plan(length, (length,)),
    }
    for dtype in DTYPES:
        inputs = u.to(dtype)  # the rounded input is the input; the error is the method's
        expected = ff.causal_conv(inputs.permute(1, 2, 0).double(), h.double())
        expected = expected.permute(2, 0, 1)  # (N, B, D)
        reasons = cannot_run(args.device, dtype)
        runs = [name for name, against in reasons.items() if not against]
        for impl in runs if args.impl == "auto" else [args.impl]:
            for name, plan in plans.items():
                if impl == "reference" and name != "planned":
                    continue  # plain torch takes minutes; its plans differ in nothing but the FFTs
                cache = ff.FutureFillCache(h, batch, length, plan=plan, impl=impl, dtype=dtype)
                y = torch.stack([cache.step(u_t) for u_t in inputs])
                _octaves(args, f"{impl}, {name}", y, expected, dtype, cache.plan, impl)
    naive = Naive(h, batch)
    y = torch.stack([naive.step(u_t).clone() for u_t in u])
    expected = ff.causal_conv(u.permute(1, 2, 0).double(), h.double()).permute(2, 0, 1)
    _octaves(args, naive.name, y, expected, torch.float32, None, "torch")


def _octaves(
    args: argparse.Namespace,
    name: str,
    y: Tensor,
    expected: Tensor,
    dtype: torch.dtype,
    plan: ff.Plan | None,
    impl: str,
) -> None:
    """One row per octave of positions. y, expected: (N, B, D)."""
    start, length = 0, len(y)
    while start < length:
        stop = min(max(2 * start, 64), length)
        args.report.add(
            name, B=y.shape[1], D=y.shape[2], L=length, P=start, dtype=dtype, plan=plan, impl=impl,
            error=relative_error(y[start:stop], expected[start:stop]),
            tolerance=shapes.tolerance(dtype), note=f"positions {start} to {stop - 1}",
        )  # fmt: skip
        start = stop


def _bits_per_byte(args: argparse.Namespace) -> None:
    model = ff.nn.load_model().to(args.device)
    (batch,) = windows(standard_library(), args.window, args.windows, args.windows)
    ids, lengths = (x.to(args.device) for x in batch)
    scored = int(lengths.sum())
    parallel = parallel_bits(model, ids, lengths) / scored

    def add(name: str, bits: float, dtype: torch.dtype, tolerance: float | None = None) -> None:
        args.report.add(
            name, B=len(ids), L=args.window, layers=model.config.layers, D=model.config.channels,
            dtype=dtype, impl=args.impl, quantity="bits per byte", value=bits / scored,
            error=None if tolerance is None else abs(bits / scored - parallel),
            tolerance=tolerance, note=f"{scored} held-out bytes",
        )  # fmt: skip

    add("parallel", parallel * scored, torch.float32)
    add("decode", _decoded(args, model, ids, lengths), torch.float32, 1e-4)
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")

        def round_state(cache: DecodingCache, dtype: torch.dtype = dtype) -> None:
            for state in (c.state for c in cache.caches):
                state.ring.copy_(state.ring.to(dtype))

        def round_spectra(cache: DecodingCache, dtype: torch.dtype = dtype) -> None:
            for state in (c.state for c in cache.caches):
                state.spectra.copy_(state.spectra.to(dtype))

        bits = _decoded(args, model, ids, lengths, every_token=round_state)
        add(f"state rounded to {name}", bits, dtype)
        bits = _decoded(args, model, ids, lengths, once=round_spectra)
        add(f"spectra rounded to {name}", bits, dtype)
    filters = [m for m in model.modules() if isinstance(m, LongFilter)]
    taps = 4
    while taps < args.window:
        with replaced(filters, filters_of(filters, taps)):
            bits = _decoded(args, model, ids, lengths)
        add(f"filters cut to {taps} taps", bits, torch.float32)
        taps *= 4
    model = model.double()
    add("decode, float64", _decoded(args, model, ids, lengths), torch.float64, 1e-4)


def _weights(args: argparse.Namespace) -> None:
    (batch,) = windows(standard_library(), args.window, args.windows, args.windows)
    ids, lengths = (x.to(args.device) for x in batch)
    scored, expected = int(lengths.sum()), None
    for dtype in DTYPES:  # float32 comes first
        model = ff.nn.load_model().to(args.device, dtype)
        found = _decoded(args, model, ids, lengths) / scored
        expected = found if expected is None else expected
        args.report.add(
            f"windows of {args.window}, weights in {str(dtype).removeprefix('torch.')}",
            B=len(ids), L=args.window, layers=model.config.layers, D=model.config.channels,
            dtype=dtype, impl=args.impl, quantity="bits per byte", value=found,
            error=abs(found - expected), tolerance=0.02, note=f"{scored} held-out bytes",
        )  # fmt: skip


@torch.no_grad()
def _decoded(
    args: argparse.Namespace,
    model: LanguageModel,
    ids: Tensor,
    lengths: Tensor,
    once: Callable[[DecodingCache], None] | None = None,
    every_token: Callable[[DecodingCache], None] | None = None,
) -> float:
    """Bits of all valid bytes with one step per byte. ids: (B, T + 1)."""
    steps = ids.shape[1] - 1
    cache = DecodingCache(model, len(ids), steps, impl=args.impl)
    if once is not None:
        once(cache)
    total = 0.0
    for t in range(steps):
        logits = model(ids[:, t : t + 1], cache=cache)
        total += bits(logits, ids[:, t + 1 : t + 2], (t < lengths)[:, None])
        if every_token is not None:
            every_token(cache)
    return total
