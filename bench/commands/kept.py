"""Whole generations by what a cache keeps: all filter spectra, those that ``memory=`` says, a state
of 16 bits. Each has a cache of its own and generates with ``u_{t+1} = y_t``, compiled calls without
Python between the tokens; they take turns at every 2048 tokens.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

import torch

import futurefill_kernels as ff

from ..harness import shapes
from ..harness.machine import check_memory
from ..harness.timing import measure_in_parts
from .cpu_vs_torch import clear, generate

SHAPES = [(8, 256, 16384), (1, 256, 65536), (1, 1024, 65536)]
_PART = 2048  # tokens that one cache generates before another's turn
_ALL = "all spectra kept"
_HALF = "small, bfloat16 filters and state"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``kept``."""
    parser.add_argument("--repeats", type=int, default=3, help="turns")


def run(args: argparse.Namespace) -> None:
    """Errors against float64 first, then the times, for every shape."""
    for batch, channels, length in [(1, 32, 512)] if args.quick else args.shapes or SHAPES:
        check_memory((80 * batch + 80) * channels * length, f"{batch},{channels},{length}")
        _shape(args, batch, channels, length)


def _caches(h: torch.Tensor, batch: int) -> dict[str, ff.FutureFillCache]:
    channels, length = h.shape
    plan = ff.make_plan(length, channels, batch_size=batch)
    make = partial(ff.FutureFillCache, h, batch, length, impl="cpu")
    half = torch.bfloat16
    return {
        _ALL: make(plan=replace(plan, made_from=None)),
        "speed": make(plan=plan),
        "small": make(plan=plan, memory="small"),
        _HALF: make(plan=plan, memory="small", filters_dtype=half, state_dtype=half),
    }


def _shape(args: argparse.Namespace, batch: int, channels: int, length: int) -> None:
    h = shapes.filters(channels, length)
    caches = _caches(h, batch)
    rows = shapes.make_rows(batch, channels, length, torch.float32)
    starts = range(0, length, _PART)

    def part_of(name: str, part: int) -> None:
        start = starts[part]
        generate(caches[name], rows[start : min(start + _PART, length) + 1])

    errors = {}
    for name, cache in caches.items():
        clear(cache)
        rows[1:] = 0
        for part in range(len(starts)):
            part_of(name, part)
        if name != _HALF:  # `accuracy` has the error of 16 bits
            errors[name] = shapes.generation_error(rows, h)
    times = measure_in_parts(
        {name: partial(part_of, name) for name in caches},
        len(starts),
        repeats=1 if args.quick else args.repeats,
        before={name: partial(clear, cache) for name, cache in caches.items()},
    )
    for name, cache in caches.items():
        memory = cache.memory()
        held = sum(memory.rows.values()) + sum(memory.filters.values())
        args.report.add(
            name, B=batch, D=channels, L=length, dtype=torch.float32, impl="cpu", plan=cache.plan,
            times=times[name], tokens=batch * length, error=errors.get(name),
            tolerance=shapes.tolerance(torch.float32) if name in errors else None,
            baseline=None if name == _ALL else (_ALL, times[_ALL]),
            note=f"{held / (channels * length):.1f} bytes per channel and position",
        )  # fmt: skip
