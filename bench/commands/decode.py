"""Tokens per second of whole models: the shipped one, with our plan and with the naive cache.

Timed are the new tokens, greedy, one by one; making the cache and the prompt come before. On a GPU
they are the second request of a `Decoder`, and rows have the host's share and the launches of a
token.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

import futurefill_kernels as ff
from futurefill_kernels.decoding.model_cache import DecodingCache

from ..harness.launches import HostOnly, device_launches
from ..harness.machine import check_memory
from ..harness.rows import relative_error
from ..harness.timing import measure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``decode``."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", default="1024,4096", help="new tokens L")
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--prompt", default="import ", help="the text before them")


def run(args: argparse.Namespace) -> None:
    """Check logits of both caches against the parallel model in float64, then time."""
    lengths = [int(n) for n in args.tokens.split(",")]
    batches = [int(b) for b in args.batch_sizes.split(",")]
    if args.quick:
        lengths, batches = [64], [2]
    model = ff.nn.load_model().to(args.device)
    if args.device.type == "cuda":
        model = model.to(args.dtype)
    config = model.config
    for length in lengths:
        for batch in batches:
            check_memory(
                64 * config.layers * config.channels * length * (batch + 1),
                f"decode of B={batch} L={length}",
                args.device,
            )
            one = _decode_on_a_gpu if args.device.type == "cuda" else _decode
            one(args, model, batch, length)


def _decode(args: argparse.Namespace, model: ff.nn.LanguageModel, batch: int, length: int) -> None:
    prompt = torch.tensor([list(args.prompt.encode())] * batch, device=args.device)
    plans = {"ours": None, "naive cache": ff.Plan(length, (length,))}
    caches = {
        name: DecodingCache(model, batch, length, plan=plan, impl=args.impl)
        for name, plan in plans.items()
    }
    start = {name: partial(_start, model, cache, prompt) for name, cache in caches.items()}
    calls = {name: partial(_tokens, model, cache, prompt, length) for name, cache in caches.items()}
    checked, errors = min(length, 512), {}
    start["ours"]()
    ids = torch.cat([prompt, calls["ours"]()[:, :checked]], 1)
    with torch.no_grad():
        exact = model.double()(ids)[:, prompt.shape[1] :]
        model.float()
        for name, cache in caches.items():
            start[name]()
            model(prompt[:, -1:], cache=cache)
            positions = range(prompt.shape[1], min(ids.shape[1], prompt.shape[1] + length - 1))
            steps = [model(ids[:, t : t + 1], cache=cache) for t in positions]
            errors[name] = relative_error(torch.cat(steps, 1), exact[:, : len(steps)])
    times = measure(
        calls,
        device=args.device,
        repeats=1 if args.quick else args.repeats,
        warmup=0,
        before=start,
    )
    for name, cache in caches.items():
        args.report.add(
            name, B=batch, D=model.config.channels, L=length, P=prompt.shape[1],
            layers=model.config.layers, dtype=torch.float32, impl=cache.impl, plan=cache.plan,
            times=times[name], tokens=batch * length, error=errors[name], tolerance=1e-4,
            baseline=None if name == "ours" else ("ours", times["ours"]),
            note=f"shipped model; logits of {checked} tokens checked",
        )  # fmt: skip


def _decode_on_a_gpu(
    args: argparse.Namespace, model: ff.nn.LanguageModel, batch: int, length: int
) -> None:
    prompt = torch.tensor([list(args.prompt.encode())] * batch, device=args.device)
    host = HostOnly()
    decoder = ff.Decoder(model, batch, length, impl=args.impl)
    with host.watching():
        ids = torch.cat([prompt, decoder(prompt)], 1)
    checked = min(length, 512)
    ids = ids[:, : prompt.shape[1] + checked]
    error = _logits_error(model, decoder, ids, prompt.shape[1])
    whole, first = partial(decoder, prompt, length), partial(decoder, prompt, 1)
    repeats = 1 if args.quick else args.repeats
    found = measure({"whole": whole, "first": first}, device=args.device, repeats=repeats)
    # the first token costs no step
    times = (found["whole"] + found["first"] * -1.0) * (length / (length - 1))
    fields = {
        "B": batch, "D": model.config.channels, "L": length, "P": prompt.shape[1],
        "layers": model.config.layers, "dtype": next(model.parameters()).dtype,
        "impl": decoder.cache.impl, "plan": decoder.cache.plan,
    }  # fmt: skip
    args.report.add(
        "ours", **fields, times=times, tokens=batch * length, error=error,
        tolerance=1e-4 if fields["dtype"] == torch.float32 else 5e-2, quantity="us per token",
        value=1e6 * times.p50 / length, unit="us",
        note=f"shipped model; logits of {checked} tokens checked",
    )  # fmt: skip
    seconds = host.seconds(args.device, whole, first) / (length - 1)
    args.report.add(
        "ours, host alone", **fields, quantity="us per token", value=1e6 * seconds, unit="us",
        note=f"{host.graphs} graphs, replayed without their work" if host.graphs else "no graphs",
    )  # fmt: skip
    few = min(length, 32)
    launches = device_launches(partial(decoder, prompt, few)) - device_launches(first)
    args.report.add(
        "ours, launches", **fields, quantity="launches per token", value=launches / (few - 1),
        note="fills included" if launches else "the profiler saw nothing",
    )  # fmt: skip


@torch.no_grad()
def _logits_error(
    model: ff.nn.LanguageModel, decoder: ff.Decoder, ids: Tensor, prompt: int
) -> float:
    """Of the decoder's cache, step by step, against the parallel model in float64."""
    dtype, cache = next(model.parameters()).dtype, decoder.cache
    cache.reset()
    model(ids[:, :prompt], cache=cache)
    steps = [model(ids[:, t : t + 1], cache=cache) for t in range(prompt, ids.shape[1] - 1)]
    cache.reset()
    twin = ff.nn.LanguageModel(model.config).to(ids.device)
    twin.load_state_dict(model.to(dtype).state_dict())
    exact = twin.double()(ids[:, :-1])[:, prompt:]
    return relative_error(torch.cat(steps, 1), exact)


@torch.no_grad()
def _start(model: ff.nn.LanguageModel, cache: DecodingCache, prompt: Tensor) -> None:
    cache.reset()
    model(prompt[:, :-1], cache=cache)


@torch.no_grad()
def _tokens(
    model: ff.nn.LanguageModel, cache: DecodingCache, prompt: Tensor, length: int
) -> Tensor:
    """The last prompt token and ``length - 1`` greedy ones go in; returns (B, length) new ids."""
    token, new = prompt[:, -1:], []
    for _ in range(length):
        token = model(token, cache=cache)[:, -1].argmax(-1, keepdim=True)
        new.append(token)
    return torch.cat(new, 1)
