"""The FutureFill paper's experiments (arXiv 2410.03766) redone, beside its published figures.

1. Time against length on one layer: naive, Epoched, Continuous and the planned mixed radix, all in
   our kernels.
2. A model of STU layers only, 8 layers of width 1024, prompted and unprompted: the naive cache
   against FutureFill. Published on one H100: 1.92, 2.00 and 2.14 times faster for 4096, 8192 and
   16384 new tokens, 1.7 times for 126,976 unprompted ones. On a CPU the lengths are scaled down.
3. Bytes a prompt leaves behind, against a KV cache of the same width.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor, nn

import futurefill_kernels as ff
from futurefill_kernels.decoding.model_cache import DecodingCache

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.rows import relative_error
from ..harness.timing import measure, weighted
from ..peers.epoched import epoch_length
from ..peers.naive_fused import NaiveFused
from .stream import PEER_TOLERANCE, part_error

#: new tokens -> how many times faster than the naive cache, prompted, one H100
PUBLISHED = {4096: 1.92, 8192: 2.00, 16384: 2.14}
PUBLISHED_UNPROMPTED = (126976, 1.7)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``paper``."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", default="length,model,memory", help="which experiments")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--scale", type=int, default=16, help="divides the model's lengths")


def run(args: argparse.Namespace) -> None:
    """The experiments named in --parts; --shapes sets those of time against length."""
    known = {"length": _time_against_length, "model": _model, "memory": _prompt_memory}
    if args.quick:
        args.layers, args.width, args.scale, args.repeats = 2, 32, 256, 1
    for part in args.parts.split(","):
        if part not in known:
            raise ValueError(f"unknown part {part!r}; expected some of {', '.join(known)}")
        known[part](args)


def _time_against_length(args: argparse.Namespace) -> None:
    lengths = [1 << k for k in range(10, 18)]
    sizes = [(1, 8, 512)] if args.quick else args.shapes or [(1, 64, n) for n in lengths]
    for batch, channels, length in sizes:
        check_memory(
            200 * (batch + 1) * channels * length, f"paper of B={batch} D={channels} L={length}"
        )
        h = shapes.filters(channels, length)
        rows = shapes.make_rows(batch, channels, length, torch.float32)
        plans = {
            "mixed radix (planned)": None,
            "Continuous-FutureFill": ff.Plan.continuous(length, min(32, length)),
            "Epoched-FutureFill": ff.Plan.epoched(length, epoch_length(length)),
        }
        fields = {"B": batch, "D": channels, "L": length, "dtype": torch.float32}
        calls, before, caches, errors = {}, {}, {}, {}
        for name, plan in plans.items():
            cache = ff.FutureFillCache(h, batch, length, plan=plan, impl=args.impl)
            shapes.generate(cache, rows)
            caches[name], errors[name] = cache, shapes.generation_error(rows, h)
            if errors[name] <= shapes.tolerance(torch.float32):
                calls[name] = partial(shapes.generate, cache, rows.clone())
                before[name] = cache.reset
        naive = NaiveFused(h, batch)
        parts = naive.parts(rows)
        errors["naive"] = max(part_error(naive, part, rows, h) for part in parts)
        for i, part in enumerate(parts):
            calls[f"naive/{i}"], before[f"naive/{i}"] = part.call, part.prepare
        times = measure(calls, repeats=args.repeats, warmup=0, before=before)
        whole = weighted([(p.weight, times[f"naive/{i}"]) for i, p in enumerate(parts)])
        for name, cache in caches.items():
            args.report.add(
                name, **fields, impl=cache.impl, plan=cache.plan, times=times.get(name),
                tokens=batch * length, error=errors[name], tolerance=1e-6,
                baseline=("naive, our kernel", whole) if name in times else None,
            )  # fmt: skip
        args.report.add(
            "naive, our kernel", **fields, impl=naive.cache.impl, times=whole,
            tokens=batch * length, error=errors["naive"], tolerance=PEER_TOLERANCE,
            note="sampled: windows of tokens at four positions",
        )  # fmt: skip


class StuModel(nn.Module):
    """Embedding, layers of RMS norm and STU with a residual, and the embedding as output map."""

    def __init__(self, layers: int, width: int, context: int, vocabulary: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        count = min(24, context)
        self.mixers = nn.ModuleList(ff.nn.STU(width, context, filters=count) for _ in range(layers))
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(layers))

    def forward(self, ids: Tensor, cache: DecodingCache | None = None) -> Tensor:
        """ids: (B, T). Returns logits (B, T, V)."""
        x = self.embedding(ids)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x), cache)
        return x @ self.embedding.weight.T


@torch.no_grad()
def _model(args: argparse.Namespace) -> None:
    scaled = f"lengths scaled down by {args.scale}" if args.scale > 1 else ""
    cases = [(n // args.scale, n // args.scale, ratio) for n, ratio in PUBLISHED.items()]
    tokens, ratio = PUBLISHED_UNPROMPTED
    # unprompted is one token of prompt; four times shorter still, it is the longest by far
    cases.append((1, max(2, tokens // args.scale // 4), ratio))
    for prompt, new, published in cases:
        context = prompt + new
        torch.manual_seed(0)
        model = StuModel(args.layers, args.width, context).eval()
        ids = torch.randint(256, (1, context), generator=torch.Generator().manual_seed(5))
        exact = model.double()(ids)[:, prompt - 1 : -1]  # (1, N, V), float64
        model = model.float()
        ours = DecodingCache(model, 1, new, impl=args.impl)
        naive = DecodingCache(model, 1, context, plan=ff.Plan(context, (context,)), impl=args.impl)
        start = {
            "ours": partial(_prompt, model, ours, ids[:, :prompt], False),
            "naive": partial(_prompt, model, naive, ids[:, :prompt], True),
        }
        run_all = {
            name: partial(_steps, model, cache, ids[:, prompt:])
            for name, cache in (("ours", ours), ("naive", naive))
        }
        errors = {}
        for name in start:
            first = start[name]()
            rest = run_all[name]()
            errors[name] = relative_error(torch.cat([first, rest], 1)[:, :new], exact)
        times = measure(run_all, repeats=args.repeats, warmup=0, before=start)
        fields = {
            "B": 1, "D": args.width, "L": new, "P": prompt, "layers": args.layers,
            "dtype": torch.float32, "tolerance": 1e-4, "tokens": new,
        }  # fmt: skip
        note = scaled + (" and by 4 more" if prompt == 1 else "")
        args.report.add(
            "STU model, naive cache", **fields, impl=naive.impl, plan=naive.plan, note=note,
            times=times["naive"], error=errors["naive"],
        )  # fmt: skip
        args.report.add(
            "STU model, FutureFill", **fields, impl=ours.impl, plan=ours.plan, note=note,
            times=times["ours"], error=errors["ours"], baseline=("naive cache", times["naive"]),
            quantity="published ratio on one H100", value=published, unit="x",
        )  # fmt: skip


def _prompt(model: nn.Module, cache: DecodingCache, ids: Tensor, in_stream: bool) -> Tensor:
    """Take the prompt. in_stream: as positions of the stream, so that the cache keeps all of it."""
    cache.reset()
    if not in_stream or ids.shape[1] == 1:
        return model(ids, cache=cache)[:, -1:]
    logits = model(ids[:, :1], cache=cache)
    logits = model(ids[:, 1:2], cache=cache)  # a step: from here on everything is the stream
    if ids.shape[1] > 2:
        logits = model(ids[:, 2:], cache=cache)
    return logits[:, -1:]


def _steps(model: nn.Module, cache: DecodingCache, ids: Tensor) -> Tensor:
    """One step per id (1, N); returns the logits (1, N, V)."""
    with torch.no_grad():
        return torch.cat([model(ids[:, t : t + 1], cache=cache) for t in range(ids.shape[1])], 1)


def _prompt_memory(args: argparse.Namespace) -> None:
    """Counted, and checked against a small cache that exists."""
    layers, width = args.layers, args.width
    for prompt, new in ((4096, 4096), (16384, 4096), (131072, 4096)):
        if args.quick:
            prompt, new = prompt // 256, new // 256
        fields = {"B": 1, "D": width, "L": new, "P": prompt, "layers": layers, "unit": "bytes"}
        h = torch.zeros(1, 8)
        plan = ff.make_plan(new, width, layers=layers, groups=1, filter_length=new)
        cache = ff.FutureFillCache([h], 1, new, channels=8, plan=plan, impl=args.impl)
        fill = cache.state.prompt_fill
        found = fill.numel() // fill.shape[2] // fill.shape[-1]  # positions kept of the prompt
        args.report.add(
            "FutureFill, what a prompt leaves", **fields, dtype=torch.float32, impl=cache.impl,
            quantity="bytes", value=float(4 * layers * width * found),
            error=float(abs(found - new)), tolerance=0.0,
        )  # fmt: skip
        args.report.add(
            "KV cache of the prompt", **fields, dtype=torch.float32, quantity="bytes",
            value=float(2 * 4 * layers * width * prompt), note="counted",
        )  # fmt: skip
