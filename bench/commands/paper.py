"""The FutureFill paper's experiments (arXiv 2410.03766) redone, beside its published figures.

1. Time against length on one layer: naive, Epoched, Continuous and the planned mixed radix, all in
   our kernels.
2. The paper's STU model, 8 layers of width 1024, prompted and unprompted: the naive cache against
   FutureFill. Published on one H100: 1.92, 2.00 and 2.14 times faster for 4096, 8192 and 16384 new
   tokens, 1.7 times for 126,976 unprompted ones. On a GPU at full size (515 million parameters,
   bfloat16) and length, on a CPU without MLP and scaled down.
3. Bytes a prompt leaves behind, against a KV cache of the same width.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import futurefill_kernels as ff
from futurefill_kernels.decoding.model_cache import DecodingCache

from ..harness import machine, shapes
from ..harness.machine import check_memory
from ..harness.models import logits_of_the_last, stu_model, weight_nbytes
from ..harness.replayed import ReplayedModel
from ..harness.rows import relative_error
from ..harness.timing import Times, measure, wall_seconds, weighted
from ..peers.epoched import epoch_length
from ..peers.naive_fused import NaiveFused
from .stream import PEER_TOLERANCE, part_error

#: new tokens -> how many times faster than the naive cache, prompted, one H100
PUBLISHED = {4096: 1.92, 8192: 2.00, 16384: 2.14}
PUBLISHED_UNPROMPTED = (126976, 1.7)
#: new tokens -> microseconds per token, where they are printed
PUBLISHED_US = {4096: 3203}
#: relative error of bfloat16 logits against the same weights in float64
GPU_TOLERANCE = 5e-2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``paper``."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", default="length,model,memory", help="which experiments")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument(
        "--mlp",
        type=int,
        help="hidden width over width, 0 for as good as no MLP; default 12, CPU 0",
    )
    parser.add_argument("--vocabulary", type=int, help="default 200064, on a CPU 256")
    parser.add_argument("--scale", type=int, help="divides the model's lengths; default 1, CPU 16")
    parser.add_argument("--lengths", default="4096,8192,16384,126976", help="of the model")
    parser.add_argument("--no-naive", action="store_true", help="of the model, ours alone")


def run(args: argparse.Namespace) -> None:
    """The experiments named in --parts; --shapes sets those of time against length."""
    known = {"length": _time_against_length, "model": _model, "memory": _prompt_memory}
    gpu = args.device.type == "cuda"
    for name, there, here in (("mlp", 12, 0), ("vocabulary", 200064, 256), ("scale", 1, 16)):
        if getattr(args, name) is None:
            setattr(args, name, there if gpu else here)
    if gpu and args.dtype == torch.float32:
        args.dtype = torch.bfloat16
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
            200 * (batch + 1) * channels * length,
            f"paper of B={batch} D={channels} L={length}",
            args.device,
        )
        h = shapes.filters(channels, length, device=args.device)
        rows = shapes.make_rows(batch, channels, length, torch.float32, args.device)
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
                calls[name] = partial(shapes.generate, cache, rows.clone().unbind(0))
                before[name] = cache.reset
        naive = NaiveFused(h, batch)
        parts = naive.parts(rows)
        errors["naive"] = max(part_error(naive, part, rows, h) for part in parts)
        for i, part in enumerate(parts):
            calls[f"naive/{i}"], before[f"naive/{i}"] = part.call, part.prepare
        times = measure(calls, device=args.device, repeats=args.repeats, warmup=0, before=before)
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


@torch.no_grad()
def _model(args: argparse.Namespace) -> None:
    scaled = f"lengths scaled down by {args.scale}" if args.scale > 1 else ""
    lengths = [int(n) for n in args.lengths.split(",")]
    for tokens in lengths:
        if tokens not in (*PUBLISHED, PUBLISHED_UNPROMPTED[0]):
            known = ", ".join(map(str, (*PUBLISHED, PUBLISHED_UNPROMPTED[0])))
            raise ValueError(f"expected --lengths of {known}, got {tokens}")
    cases = [(n // args.scale, n // args.scale, PUBLISHED[n]) for n in lengths if n in PUBLISHED]
    tokens, ratio = PUBLISHED_UNPROMPTED
    if tokens in lengths:
        # unprompted is one token of prompt; scaled four times more, it is the longest by far
        cases.append((1, max(2, tokens // args.scale // (4 if args.scale > 1 else 1)), ratio))
    for prompt, new, published in cases:
        model = stu_model(
            args.layers, args.width, prompt + new, vocabulary=args.vocabulary,
            mlp_hidden=max(1, args.mlp * args.width), device=args.device, dtype=args.dtype,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(5)
        ids = torch.randint(args.vocabulary, (1, prompt + new), generator=generator)
        fields = {
            "B": 1, "D": args.width, "L": new, "P": prompt, "layers": args.layers,
            "dtype": args.dtype, "tokens": new,
        }  # fmt: skip
        note = scaled + (" and by 4 more" if scaled and prompt == 1 else "")
        run = _on_a_gpu if args.device.type == "cuda" else _on_a_cpu
        run(args, model, ids.to(args.device), prompt, new, published, fields, note)


def _on_a_cpu(
    args: argparse.Namespace,
    model: ff.nn.LanguageModel,
    ids: Tensor,
    prompt: int,
    new: int,
    published: float,
    fields: dict[str, Any],
    note: str,
) -> None:
    """Step by step, given tokens."""
    exact = logits_of_the_last(model, ids[:, :-1], new)  # (1, N, V), float64
    ours = DecodingCache(model, 1, new, impl=args.impl)
    naive = naive_cache(args, model, prompt + new)
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
    times = measure(run_all, device=args.device, repeats=args.repeats, warmup=0, before=start)
    _rows(args, fields, note, published, (ours, naive), times, errors, 1e-4)


def _on_a_gpu(
    args: argparse.Namespace,
    model: ff.nn.LanguageModel,
    ids: Tensor,
    prompt: int,
    new: int,
    published: float,
    fields: dict[str, Any],
    note: str,
) -> None:
    """Greedy, a token being one replay: ours in a `Decoder`, naive in a graph of the same model.

    Checked are the logits of the first tokens against the parallel model, given the same ids.
    """
    checked = min(new, 64)
    exact = logits_of_the_last(model, ids[:, : prompt + checked - 1], checked)
    decoder = ff.Decoder(model, 1, new, impl=args.impl)
    whole = partial(decoder, ids[:, :prompt], new)
    first = partial(decoder, ids[:, :prompt], 1)
    errors = {"ours": _given(model, decoder.cache, ids, prompt, checked, exact, False)}
    times: dict[str, Times] = {}
    if errors["ours"] <= GPU_TOLERANCE:
        found = measure({"whole": whole, "first": first}, device=args.device, repeats=args.repeats)
        # the first token costs no step
        times["ours"] = (found["whole"] + found["first"] * -1.0) * (new / (new - 1))
    naive = naive_cache(args, model, prompt + new) if not args.no_naive else None
    if naive is not None:
        errors["naive"] = _given(model, naive, ids, prompt, checked, exact, True)
        if errors["naive"] <= GPU_TOLERANCE:
            _prompt(model, naive, ids[:, :prompt], True)
            model(ids[:, prompt : prompt + 1], cache=naive)
            replayed = ReplayedModel(model, naive, ids[:, prompt : prompt + 1], new)
            seconds = wall_seconds(args.device, partial(replayed, new - 1)) * (new / (new - 1))
            times["naive"] = Times((seconds,) * args.repeats)
    _rows(args, fields, note, published, (decoder.cache, naive), times, errors, GPU_TOLERANCE)
    bandwidth, _ = machine.roofs(args.threads, args.device)
    least = weight_nbytes(model) / bandwidth
    args.report.add(
        "time of the weights", **{**fields, "tokens": None}, quantity="us per token",
        value=1e6 * least, unit="us",
        note=f"{weight_nbytes(model):,} bytes at the measured {bandwidth / 1e12:.2f} TB/s"
        + (f"; ours is {times['ours'].p50 / new / least:.2f} x" if "ours" in times else ""),
    )  # fmt: skip


def naive_cache(args: argparse.Namespace, model: nn.Module, context: int) -> DecodingCache:
    """One block as long as prompt and stream together: every token sums over all before it."""
    plan = ff.Plan(context, (context,))
    return DecodingCache(model, 1, context, plan=plan, impl=args.impl)


def _given(
    model: nn.Module,
    cache: DecodingCache,
    ids: Tensor,
    prompt: int,
    checked: int,
    exact: Tensor,
    in_stream: bool,
) -> float:
    """Error of the logits of ``checked`` given tokens, step by step."""
    first = _prompt(model, cache, ids[:, :prompt], in_stream)
    rest = _steps(model, cache, ids[:, prompt : prompt + checked - 1])
    return relative_error(torch.cat([first, rest], 1), exact)


def _rows(
    args: argparse.Namespace,
    fields: dict[str, Any],
    note: str,
    published: float,
    caches: tuple[DecodingCache, DecodingCache | None],
    times: dict[str, Times],
    errors: dict[str, float],
    tolerance: float,
) -> None:
    """Both variants, and the published ratio beside ours."""
    ours, naive = caches
    naive_times = times.get("naive")
    if naive is not None:
        args.report.add(
            "STU model, naive cache", **fields, impl=naive.impl, plan=naive.plan, note=note,
            times=naive_times, error=errors["naive"], tolerance=tolerance,
        )  # fmt: skip
    if args.scale == 1 and fields["L"] in PUBLISHED_US:
        note = f"published: {PUBLISHED_US[fields['L']]} us per token on one H100"
    args.report.add(
        "STU model, FutureFill", **fields, impl=ours.impl, plan=ours.plan, note=note,
        times=times.get("ours"), error=errors["ours"], tolerance=tolerance,
        baseline=("naive cache", naive_times) if naive_times and "ours" in times else None,
        quantity="published ratio on one H100", value=published, unit="x",
    )  # fmt: skip


@torch.no_grad()
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
        h = torch.zeros(1, 8, device=args.device)
        plan = ff.make_plan(
            new, width, layers=layers, groups=1, filter_length=new, device=args.device
        )
        cache = ff.FutureFillCache(
            [h], 1, new, channels=8, plan=plan, impl=args.impl, rollback=None
        )
        fill = cache.state.prompt_fill
        assert fill is not None
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
