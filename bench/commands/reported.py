"""Situations that people report as slow, ours beside the plain way, in one run.

The plain ways: a chunk inside the stream convolves everything so far; `reorder`, after each step
of a beam search, copies every slot of every row; a chunk of a prompt convolves the prompt so far; a
request makes its cache; tokens of some rows run layer by layer. "over it" is the median over the
turns of the plain time over ours; the note compares with what the situation is made of: steps, a
copy of the bytes, one call.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.rows import relative_error
from ..harness.timing import Times, clock, measure

_LENGTH = 16384


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``reported``."""
    parser.add_argument("--repeats", type=int, default=15, help="turns of each situation")


@torch.no_grad()
def run(args: argparse.Namespace) -> None:
    """Every situation, in the order of docs/field_reports.md."""
    repeats, length = (2, 1024) if args.quick else (args.repeats, _LENGTH)
    _small_chunks(args, repeats, length)
    _rolled_back(args, min(length, 4096))
    _reordered(args, repeats, length)
    _endless(args, repeats, 1 if args.quick else 60)
    _chunked_prompt(args, max(repeats // 3, 1), 4 * length)
    _short_requests(args, repeats)
    _some_rows(args, repeats)


def _small_chunks(args: argparse.Namespace, repeats: int, length: int) -> None:
    channels, position = 64, length * 3 // 4
    place = {"dtype": args.dtype, "device": args.device}
    h = shapes.filters(channels, length, device=args.device)
    u = shapes.randn(1, channels, length, seed=1, **place)
    cache = ff.FutureFillCache(h, 1, length, impl=args.impl, rollback=64, dtype=args.dtype)
    cache.run(u[..., :position])
    for width in (4, 64):
        chunk = u[..., position : position + width]
        whole = u[..., : position + width]

        def steps(chunk: Tensor = chunk) -> Tensor:
            return torch.stack([cache.step(u_t) for u_t in chunk.unbind(-1)], -1)

        def ours(chunk: Tensor = chunk) -> Tensor:
            return cache.prefill(chunk)

        def back() -> None:
            cache.crop(position)

        plain = ff.causal_conv(whole, h)[..., position:]
        error = relative_error(ours(), plain.double())
        variants: dict[str, Callable[[], object]] = {
            "ours": ours, "steps": steps,
            "everything so far": lambda whole=whole: ff.causal_conv(whole, h),
        }  # fmt: skip
        times = measure(
            variants, device=args.device, repeats=repeats, before=dict.fromkeys(variants, back)
        )
        back()
        _row(
            args, f"chunk of {width} at {position:,}", times, "everything so far", error,
            f"{times['ours'].ratio(times['steps']):.2f} of {width} steps", D=channels, L=length,
        )  # fmt: skip


def _rolled_back(args: argparse.Namespace, length: int) -> None:
    """The mean over all positions, so that every block's end is among them."""
    channels, back = 64, 8
    place = {"dtype": args.dtype, "device": args.device}
    h = shapes.filters(channels, length, device=args.device)
    u = shapes.randn(1, channels, length, seed=1, **place)
    cache = ff.FutureFillCache(h, 1, length, impl=args.impl, rollback=back, dtype=args.dtype)
    u_t = list(u.unbind(-1))
    for x in u_t[:back]:
        cache.step(x)
    crops, steps, drafts = [], [], []
    for p in range(back, length - 1):
        times = [clock()]
        cache.crop(p - back)
        times.append(clock())
        cache.prefill(u[..., p - back : p])
        times.append(clock())
        y = cache.step(u_t[p])
        times.append(clock())
        for found, (a, b) in zip((crops, drafts, steps), itertools.pairwise(times), strict=True):
            found.append(b - a)
    error = relative_error(y, ff.causal_conv(u[..., : length - 1], h)[..., -1].double())
    means = {
        name: Times((sum(x) / len(x),))
        for name, x in (("ours", crops), ("plain steps", [back * s for s in steps]))
    }
    draft = sum(drafts) / sum(steps)
    _row(
        args, f"crop by {back}, mean over all positions", means, "plain steps", error,
        f"{sum(crops) / sum(steps):.2f} of a step; the chunk of {back} that follows "
        f"{draft / back:.2f} of {back} steps", D=channels, L=length,
    )  # fmt: skip


def _reordered(args: argparse.Namespace, repeats: int, length: int) -> None:
    channels, rows, order = 256, 4, [0, 0, 1, 2]
    place = {"dtype": args.dtype, "device": args.device}
    h = shapes.filters(channels, length, device=args.device)
    u = shapes.randn(rows, channels, length, seed=1, **place)
    cache = ff.FutureFillCache(h, rows, length, impl=args.impl, dtype=args.dtype)
    index, now = torch.tensor(order, device=args.device), u[..., 0]
    for position in (length // 32, length // 4, length * 3 // 4):
        cache.run(u[..., cache.taken[0] : position])
        ring, step = cache.state.ring, partial(cache.step, now)
        used = torch.zeros_like(ring[:, 1:, ..., : 2 * position, :])
        variants: dict[str, Callable[[], object]] = {
            "ours": partial(cache.reorder, order),
            "identity": partial(cache.reorder, range(rows)),
            "step": step,
            "every slot": lambda ring=ring: ring.copy_(ring[:, index]),
            "copy": lambda ring=ring, used=used: used.copy_(ring[:, :3, ..., : used.shape[-2], :]),
        }
        times = measure(variants, device=args.device, repeats=repeats, before={"ours": step})
        note = ", ".join(
            f"{times['ours'].ratio(times[name]):.3g} of {text}"
            for name, text in (("copy", "a copy of three rows' used slots"), ("step", "a step"))
        )
        _row(
            args, f"reorder at {position:,}", times, "every slot", 0.0,
            f"{note}; the identity takes {1e6 * times['identity'].p50:.1f} us",
            B=rows, D=channels, L=length,
        )  # fmt: skip


def _endless(args: argparse.Namespace, repeats: int, seconds: int) -> None:
    """A stereo impulse response of 0.1 s at 48 kHz, in blocks of 64."""
    rate, channels, block = 48_000, 2, 64
    taps = rate // 10
    place = {"dtype": args.dtype, "device": args.device}
    h = shapes.filters(channels, taps, device=args.device)
    u = shapes.randn(1, channels, 4 * taps, seed=1, **place)
    cache = ff.FutureFillCache(h, 1, None, impl=args.impl, dtype=args.dtype)
    y = [cache.run(u[..., t : t + block]) for t in range(0, u.shape[2] - block + 1, block)][-1]
    newest = u[..., -(taps - 1 + block) :].contiguous()
    error = relative_error(y, ff.causal_conv(newest, h)[..., -block:].double())
    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: cache.run(newest[..., -block:]),
        "steps": lambda: [cache.step(u_t) for u_t in newest[..., -block:].unbind(-1)],
        "all that it reaches": lambda: ff.causal_conv(newest, h),
    }
    times = measure(variants, device=args.device, repeats=4 * repeats)
    ending = ff.FutureFillCache(h, 1, rate * seconds, impl=args.impl, dtype=args.dtype)
    _row(
        args, f"endless stereo, blocks of {block}", times, "all that it reaches", error,
        f"{cache.nbytes / 2**20:.2f} MiB however long it runs, {ending.nbytes / 2**20:.1f} MiB of "
        f"one of {seconds} s; {times['ours'].ratio(times['steps']):.2f} of {block} steps",
        D=channels, L=taps,
    )  # fmt: skip


def _chunked_prompt(args: argparse.Namespace, repeats: int, length: int) -> None:
    place = {"dtype": args.dtype, "device": args.device}
    size, limit = 512, 4096
    for channels in (16, 64):
        h = shapes.filters(channels, length, device=args.device)
        u = shapes.randn(1, channels, length, seed=1, **place)
        spare = torch.zeros(1, channels, 1, **place)[..., 0]

        def prompt(size: int, h: Tensor = h, u: Tensor = u, spare: Tensor = spare) -> Tensor:
            cache = ff.FutureFillCache(h, 1, 1024, impl=args.impl, dtype=args.dtype)
            y = [cache.prefill(u[..., s : s + size]) for s in range(0, u.shape[2], size)]
            cache.step(spare)  # with the future fill
            return y[-1]

        def so_far(h: Tensor = h, u: Tensor = u) -> None:
            for end in range(size, u.shape[2] + 1, limit):  # every eighth of them
                ff.causal_conv(u[..., :end], h)

        error = relative_error(prompt(size), ff.causal_conv(u, h)[..., -size:].double())
        times = measure(
            {"ours": lambda: prompt(size), "call": lambda: prompt(length), "so far": so_far},
            device=args.device, repeats=repeats,
        )  # fmt: skip
        times["so far"] = times["so far"] * (limit / size)
        _row(
            args, f"prompt in chunks of {size}", times, "so far", error,
            f"{times['ours'].ratio(times['call']):.2f} of one call; the plain way is an eighth "
            "of its chunks, scaled", D=channels, L=length,
        )  # fmt: skip


def _short_requests(args: argparse.Namespace, repeats: int) -> None:
    model = ff.nn.load_model().to(args.device)
    prompt = torch.tensor([list(b"def ")], device=args.device)
    decoder = ff.Decoder(model, 1, 8, impl=args.impl)
    same = torch.equal(decoder(prompt, 8), ff.decode(model, prompt, 8, impl=args.impl))
    times = measure(
        {
            "ours": lambda: decoder(prompt, 8),
            "made": lambda: ff.decode(model, prompt, 8, impl=args.impl),
        },
        device=args.device, repeats=repeats,
    )  # fmt: skip
    note = "a Decoder against decode, which makes its cache"
    _row(args, "request of 8 tokens", times, "made", 0.0 if same else 1.0, note, B=1)


def _some_rows(args: argparse.Namespace, repeats: int) -> None:
    model = ff.nn.load_model().to(args.device)
    ids = torch.randint(0, 256, (8, 20), generator=torch.Generator().manual_seed(0))
    ids = ids.to(args.device)
    some = list(range(7))
    caches = {
        fused: ff.DecodingCache(model, 8, 4 * (repeats + 8), impl=args.impl, fused=fused)
        for fused in (True, False)
    }

    def token(cache: ff.DecodingCache, rows: list[int] | None) -> Tensor:
        with cache.select(rows=rows):
            return model(ids[: 8 if rows is None else 7, :1], cache=cache)

    for cache in caches.values():
        model(ids, cache=cache)
    got, right = (token(cache, some) for cache in caches.values())
    times = measure(
        {
            "ours": lambda: token(caches[True], some),
            "all": lambda: token(caches[True], None),
            "by layers": lambda: token(caches[False], some),
        },
        device=args.device, repeats=repeats,
    )  # fmt: skip
    note = f"{times['ours'].ratio(times['all']):.2f} of a token of all 8"
    error = relative_error(got, right.double())
    _row(args, "token of 7 of 8 rows", times, "by layers", error, note, B=8)


def _row(
    args: argparse.Namespace,
    name: str,
    times: dict[str, Times],
    plain: str,
    error: float,
    note: str,
    **sizes: int,
) -> None:
    args.report.add(
        name, dtype=args.dtype, impl=args.impl, times=times["ours"], error=error, tolerance=2e-4,
        baseline=(plain, times[plain]), note=note, **sizes,
    )  # fmt: skip
