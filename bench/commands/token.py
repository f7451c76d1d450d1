"""Where a token of the shipped model goes: its parts on their own, and whole tokens beside them.

On the CPU a token is a few runs of instructions with the long convolutions between them. An
instruction is timed in a run of many copies; a long convolution is a step with the fills that are
due, averaged over the tokens.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch

import futurefill_kernels as ff
from futurefill_kernels.decoding.model_cache import DecodingCache
from futurefill_kernels.nn.token import program

from ..harness.rows import relative_error
from ..harness.timing import Times

_COPIES = 64
_PARTS = {
    program.Embed: "embedding", program.Norm: "norms", program.Dense: "matrix products",
    program.ShortConv: "short convolutions", program.Gate: "MLP gates", program.Load: "copies",
    program.Store: "copies", program.Add: "residuals",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``token``."""
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--batch-sizes", default="1,8")


def run(args: argparse.Namespace) -> None:
    """Time the parts and the whole for every number of rows."""
    model = ff.nn.load_model()
    batches = [2] if args.quick else [int(b) for b in args.batch_sizes.split(",")]
    for batch in batches:
        _token(args, model, batch, 64 if args.quick else args.tokens)


@torch.no_grad()
def _token(args: argparse.Namespace, model: ff.nn.LanguageModel, batch: int, tokens: int) -> None:
    cache = DecodingCache(model, batch, tokens, impl=args.impl)
    token = cache.fused
    if token is None:
        args.report.add("token", B=batch, status=f"not fused: {'; '.join(cache.not_fused)}")
        return
    ids = torch.tensor([list(b"def")] * batch)
    model(ids[:, :1], cache=cache)
    got = torch.cat([model(ids[:, t : t + 1], cache=cache) for t in (1, 2)], 1)
    error = relative_error(got, model.double()(ids)[:, 1:])
    model.float()
    parts = dict.fromkeys(_PARTS.values(), 0.0)
    ids = ids[:, -1:].contiguous()
    for instruction in itertools.chain(*token.program.segments):
        if type(instruction) in _PARTS:
            seconds = _instruction_seconds(token.program, instruction, ids)
            parts[_PARTS[type(instruction)]] += seconds
    parts["long convolutions"] = sum(map(_convolution_seconds, cache.caches))
    logits = model(ids, cache=cache)
    parts["greedy sampling"] = _seconds(lambda: logits[:, -1].argmax(-1, keepdim=True))
    cache.reset()
    model(ids, cache=cache)
    start = time.perf_counter()
    for _ in range(tokens - 1):
        ids = model(ids, cache=cache)[:, -1].argmax(-1, keepdim=True)
    whole = (time.perf_counter() - start) / (tokens - 1)
    parts["calls from Python, and the rest"] = whole - sum(parts.values())
    fields = {"B": batch, "D": model.config.channels, "L": tokens, "layers": model.config.layers}
    for name, seconds in parts.items():
        args.report.add(
            name, **fields, impl=cache.impl, quantity="us per token", value=1e6 * seconds,
            note=f"{100 * seconds / whole:.0f}% of a token",
        )  # fmt: skip
    args.report.add(
        "token", **fields, impl=cache.impl, plan=cache.plan, times=Times((tokens * whole,)),
        tokens=batch * tokens, error=error, tolerance=1e-4, quantity="us per token",
        value=1e6 * whole,
    )  # fmt: skip


def _instruction_seconds(
    whole: program.Program, instruction: program.Instruction, ids: torch.Tensor
) -> float:
    """One instruction of a token's program, without the call that runs it."""
    op = torch.ops.futurefill_kernels.token_segment.default
    progress = torch.zeros(1, dtype=torch.int64)
    memory = whole.memory()

    def run(copies: int) -> Callable[[], object]:
        code = program.encode([instruction] * copies)
        places = memory.weights, memory.scratch.zero_(), memory.io
        return lambda: op(code, ids, None, *places, progress)

    return max(_seconds(run(_COPIES + 1)) - _seconds(run(1)), 0.0) / _COPIES


def _convolution_seconds(cache: ff.FutureFillCache) -> float:
    """A token of all layers with both gates, and its share of the fills."""
    cache.reset()
    u = torch.randn(cache.batch_size, cache.channels)
    y = torch.empty_like(u)
    start = time.perf_counter()
    for _ in range(cache.max_new_tokens):
        for layer in range(cache.layers):
            cache.step(u, layer, pre=u, post=u, out=y)
    seconds = (time.perf_counter() - start) / cache.max_new_tokens
    cache.reset()
    return seconds


def _seconds(call: Callable[[], object]) -> float:
    """Median time of a call."""
    call()
    times = []
    for _ in range(200):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
