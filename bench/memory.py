"""Bytes of state after prompts of different length: they must be equal, and follow the formula."""

from __future__ import annotations

import argparse

import torch

import futurefill_kernels as ff
from futurefill_kernels.state import state_nbytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``memory``."""
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--prompts", default="0,1000,100000")


def run(args: argparse.Namespace) -> None:
    """Prefill, step once, print the bytes."""
    torch.set_num_threads(args.threads)
    if args.quick:
        args.channels, args.length, args.prompts = 16, 256, "0,10,1000"
    prompts = [int(p) for p in args.prompts.split(",")]
    h = torch.randn(args.channels, max(prompts) + args.length)
    found = set()
    for prompt in prompts:
        cache = ff.FutureFillCache(h, 1, args.length, impl=args.impl)
        if prompt:
            cache.prefill(torch.randn(1, args.channels, prompt))
        cache.step(torch.randn(1, args.channels))
        found.add(cache.nbytes)
        print(f"D={args.channels} N={args.length} P={prompt:>7}: {cache.nbytes} bytes")
    if len(found) != 1:
        raise RuntimeError("the state depends on the prompt's length")
    if cache.impl != "reference":
        expected = state_nbytes(cache.plan, cache._state.layout, layers=1, batch_size=1)
        print(f"formula: {expected} bytes")
        if found != {expected}:
            raise RuntimeError("the state does not follow the formula")
