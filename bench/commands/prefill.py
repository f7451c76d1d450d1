"""A prompt of P tokens into a cache for L more: outputs and future fill, beside torch.fft."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.rows import relative_error
from ..harness.timing import measure

_CHUNK = 4  # channels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``prefill``."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", default="1024,8192,65536", help="lengths P")


def run(args: argparse.Namespace) -> None:
    """Check prompt outputs and the tokens after it against float64, then time."""
    sizes, prompts = args.shapes or [(1, 256, 4096)], [int(p) for p in args.prompts.split(",")]
    if args.quick:
        sizes, prompts = [(2, 8, 64)], [1, 100]
    for batch, channels, length in sizes:
        for prompt in prompts:
            total = prompt + length
            check_memory(
                100 * (batch + 1) * channels * total,
                f"prefill of B={batch} D={channels} P={prompt} L={length}",
                args.device,
            )
            _prompt(args, batch, channels, prompt, length)


def _prompt(args: argparse.Namespace, batch: int, channels: int, prompt: int, length: int) -> None:
    h = shapes.filters(channels, prompt + length, args.dtype, args.device)
    steps = min(length, 32)
    u = shapes.randn(batch, channels, prompt + steps, seed=6, dtype=args.dtype, device=args.device)
    cache = ff.FutureFillCache(h, batch, length, impl=args.impl)
    keeping = ff.FutureFillCache(h, batch, length, impl=args.impl, keep_prompt_spectra=True)
    y = cache.prefill(u[..., :prompt])
    rest = [cache.step(u[..., t])[..., None] for t in range(prompt, prompt + steps)]
    expected = ff.causal_conv(u.double(), h.double())
    error = relative_error(torch.cat([y, *rest], -1), expected)
    n = 1 << (prompt + length - 1).bit_length()
    # linear convolution up to output P + L: no wrap with n >= P + L + P - 1, or reads none
    n = n if n >= 2 * prompt + length - 1 else 2 * n
    spectrum = torch.fft.rfft(h.float(), n)
    wide = u[..., :prompt].float()

    # a CPU's transforms of all channels at once would leave the caches
    chunk = _CHUNK if args.device.type == "cpu" else channels

    def with_torch() -> Tensor:
        y = torch.empty(batch, channels, prompt + length, device=args.device)
        for c in range(0, channels, chunk):
            product = torch.fft.rfft(wide[:, c : c + chunk], n) * spectrum[c : c + chunk]
            y[:, c : c + chunk] = torch.fft.irfft(product, n)[..., : prompt + length]
        return y

    kept = relative_error(keeping.prefill(u[..., :prompt]), expected[..., :prompt])
    variants = {
        "ours": lambda: cache.prefill(u[..., :prompt]),
        "kept": lambda: keeping.prefill(u[..., :prompt]),
        "torch.fft": with_torch,
    }
    torch_error = relative_error(with_torch()[..., :prompt], expected[..., :prompt])
    times = measure(
        variants,
        device=args.device,
        repeats=1 if args.quick else args.repeats,
        before={"ours": cache.reset, "kept": keeping.reset},
    )
    fields = {"B": batch, "D": channels, "L": length, "P": prompt, "dtype": args.dtype}
    args.report.add(
        "ours", **fields, impl=cache.impl, plan=cache.plan, times=times["ours"],
        tokens=batch * prompt, error=error, tolerance=shapes.tolerance(args.dtype),
    )  # fmt: skip
    args.report.add(
        "ours, spectra kept", **fields, impl=cache.impl, plan=cache.plan, times=times["kept"],
        tokens=batch * prompt, error=kept, tolerance=shapes.tolerance(args.dtype),
        baseline=("ours", times["ours"]), note="of an earlier prompt",
    )  # fmt: skip
    args.report.add(
        "torch.fft, spectra kept", **fields, impl="torch", times=times["torch.fft"],
        tokens=batch * prompt, error=torch_error, tolerance=1e-5,
        baseline=("ours", times["ours"]), note="outputs and fill, nothing stored",
    )  # fmt: skip
