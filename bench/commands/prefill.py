"""A prompt of P tokens into a cache for L more: outputs and future fill, beside torch.fft with a
spectrum that is ready, at the fastest of some lengths that suffice; the same gates, nothing stored.

"behind other work": the device is busy when a call begins, so that the host's part counts only
where it is longer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.fft_lengths import fair_lengths
from ..harness.implementations import names_of
from ..harness.machine import check_memory
from ..harness.rows import relative_error
from ..harness.timing import Times, measure

_CHUNK = 4  # channels
_CHECKED = 32  # channels whose error is looked at
_BUSY_BYTES = 2 << 30  # read before a call of which only the device's part counts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``prefill``."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--prompts",
        default="1024,8192,65536",
        help="lengths P, or PxB for rows instead of --shapes'",
    )
    parser.add_argument("--gated", action="store_true", help="with pre and post gates")


def run(args: argparse.Namespace) -> None:
    """Check prompt outputs and the tokens after it against float64, then time."""
    sizes, prompts = args.shapes or [(1, 256, 4096)], args.prompts.split(",")
    if args.quick:
        sizes, prompts = [(2, 8, 64)], ["1", "100", "33x3"]
    for rows, channels, length in sizes:
        for text in prompts:
            prompt, _, own = text.partition("x")
            batch, total = int(own or rows), int(prompt) + length
            check_memory(
                100 * (batch + 1) * channels * total,
                f"prefill of B={batch} D={channels} P={prompt} L={length}",
                args.device,
            )
            with args.report.guard("prompt", B=batch, D=channels, P=int(prompt)):
                _prompt(args, batch, channels, int(prompt), length)


@torch.no_grad()
def _prompt(args: argparse.Namespace, batch: int, channels: int, prompt: int, length: int) -> None:
    h = shapes.filters(channels, prompt + length, args.dtype, args.device)
    steps = min(length, 32)
    u = shapes.randn(batch, channels, prompt + steps, seed=6, dtype=args.dtype, device=args.device)
    gates = [u.flip(-1).contiguous(), u.roll(1, -1)] if args.gated else [None, None]
    few = slice(0, _CHECKED)
    gated = u if gates[0] is None else u * gates[0]
    expected = ff.causal_conv(gated[:, few].double(), h[few].double())
    if gates[1] is not None:
        expected = expected * gates[1][:, few].double()
    calls: dict[str, Callable[[], object]] = {}
    before: dict[str, Callable[[], object]] = {}
    caches, errors = {}, {}
    pre, post = (None if g is None else g[..., :prompt].contiguous() for g in gates)
    whole = u[..., :prompt].contiguous() if args.gated else u[..., :prompt]
    for impl in names_of(args.impl, args.device, args.dtype):
        with args.report.guard("ours", impl=impl, B=batch, D=channels, P=prompt):
            for kept in (False, True):
                cache = ff.FutureFillCache(
                    h, batch, length, impl=impl, dtype=args.dtype, keep_prompt_spectra=kept
                )
                name = f"{cache.impl}{', spectra kept' if kept else ''}"
                call = partial(cache.prefill, whole, pre=pre, post=post)
                if kept:
                    call()
                    cache.reset()
                y = [call()]
                for t in range(prompt, prompt + steps):
                    now = [None if g is None else g[..., t].contiguous() for g in gates]
                    y_t = cache.step(u[..., t].contiguous(), pre=now[0], post=now[1])
                    y.append(y_t[..., None])
                errors[name] = relative_error(torch.cat(y, -1)[:, few], expected)
                caches[name], calls[name], before[name] = cache, call, cache.reset
    torchs = {
        f"torch.fft, {n} points": _with_torch(args, h, whole, pre, post, length, n)
        for n in fair_lengths(2 * prompt + length - 1)
    }
    for name, call in torchs.items():
        errors[name] = relative_error(call()[:, few, :prompt], expected[..., :prompt])
    calls |= torchs
    times = _measure(args, calls, before)
    fields = {"B": batch, "D": channels, "L": length, "P": prompt, "dtype": args.dtype}
    for kind, found in times.items():
        _report(args, kind, found, errors, caches, {**fields, "tokens": batch * prompt})


def _report(
    args: argparse.Namespace, kind: str, times: dict[str, Times], errors: dict[str, float],
    caches: dict[str, ff.FutureFillCache], fields: dict[str, object],
) -> None:  # fmt: skip
    """Rows of ours and of torch.fft at its best length, and ours over that.

    kind: of the measurement, "" for a call as it is.
    """
    best = min((name for name in times if name not in caches), key=lambda name: times[name].p50)
    gates = "with gates" if args.gated else ""
    for name, cache in caches.items():
        args.report.add(
            f"ours, {name}", **fields, impl=cache.impl, plan=cache.plan, times=times[name],
            error=errors[name], tolerance=shapes.tolerance(args.dtype),
            note=", ".join(filter(None, (gates, kind))), quantity="of torch.fft",
            value=times[name].ratio(times[best]), limit=1.0,
        )  # fmt: skip
    args.report.add(
        best, **fields, impl="torch", times=times[best], error=errors[best], tolerance=1e-5,
        note=", ".join(filter(None, (gates, kind, "outputs and fill, nothing stored"))),
    )  # fmt: skip


def _measure(
    args: argparse.Namespace,
    calls: dict[str, Callable[[], object]],
    before: dict[str, Callable[[], object]],
) -> dict[str, dict[str, Times]]:
    """Times of all calls, in turns, by kind of the measurement."""
    repeats = 1 if args.quick else args.repeats
    found = {"": measure(calls, device=args.device, repeats=repeats, before=before)}
    if args.device.type == "cuda":
        work = torch.zeros(_BUSY_BYTES // 4, device=args.device)

        def busy(name: str) -> None:
            before.get(name, lambda: None)()
            for _ in range(4):
                work.sum()

        behind = {name: partial(busy, name) for name in calls}
        found["behind other work"] = measure(
            calls, device=args.device, repeats=repeats, before=behind
        )
    return found


def _with_torch(
    args: argparse.Namespace, h: Tensor, u: Tensor, pre: Tensor | None, post: Tensor | None,
    length: int, n: int,
) -> Callable[[], Tensor]:  # fmt: skip
    """P outputs and L future outputs (B, D, P + L) by n points, of which none wraps."""
    prompt = u.shape[2]
    spectrum = torch.fft.rfft(h.float(), n)

    def part(here: slice) -> Tensor:
        x = u[:, here].float() if pre is None else u[:, here].float() * pre[:, here]
        y = torch.fft.irfft(torch.fft.rfft(x, n) * spectrum[here], n)[..., : prompt + length]
        if post is not None:
            y[..., :prompt] *= post[:, here]
        return y

    def call() -> Tensor:
        if args.device.type != "cpu":
            return part(slice(None))
        # transforms of all channels at once would leave a CPU's caches
        y = torch.empty(*u.shape[:2], prompt + length, dtype=torch.float32)
        for c in range(0, u.shape[1], _CHUNK):
            y[:, c : c + _CHUNK] = part(slice(c, c + _CHUNK))
        return y

    return call
