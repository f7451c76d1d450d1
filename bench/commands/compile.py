"""What a first token waits for Triton's compiler: the kernels of a stream, in one process and in
several, each with an empty disk cache, and found there. Needs no GPU; what a device adds is not
measured.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from unittest import mock

from futurefill_kernels.cli.tune.compile_ahead import Job, compiled
from futurefill_kernels.implementations import triton
from futurefill_kernels.implementations.triton_kernels.sizes import StreamSizes
from futurefill_kernels.planning.device import DeviceInfo
from futurefill_kernels.planning.make_plan import make_plan

from ..harness.timing import Times


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``compile``."""
    parser.add_argument("--for", dest="kind", choices=DeviceInfo.names(), default="h200")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")


def run(args: argparse.Namespace) -> None:
    """A stream with gates and skip, as of a Hyena model, all of it by Triton."""
    info = DeviceInfo.named(args.kind)
    for batch, channels, length in [(1, 32, 100)] if args.quick else args.shapes or [
        (1, 1024, 65536)
    ]:  # fmt: skip
        prompt = 20 if args.quick else args.prompt
        plan = make_plan(
            length, channels, batch_size=batch, layers=args.layers, device=info, impl="triton"
        )
        sizes = StreamSizes(
            plan, channels, channels, args.layers, batch, args.dtype, prompt=prompt, gates=(True,),
            skips=(True,),
        )  # fmt: skip
        names = [sizes.fill_name(level) for level in sizes.stored_levels][::-1]
        jobs = [Job(info, sizes, name) for name in (*names, *sizes.step_names, sizes.PROMPT)]
        common = {
            "B": batch, "D": channels, "L": length, "P": prompt, "layers": args.layers,
            "dtype": args.dtype, "impl": "triton", "plan": plan,
        }  # fmt: skip
        reasons = triton.cannot_compile()
        if reasons:
            args.report.add("in one process", status="; ".join(reasons), **common)
            continue
        made: dict[str, list[frozenset[str]]] = {}
        times: dict[str, list[float]] = {}
        for _ in range(1 if args.quick else args.repeats):
            for variant, kernels, seconds in _times(jobs, args.workers):
                made.setdefault(variant, []).append(kernels)
                times.setdefault(variant, []).append(seconds)
        expected, *others = [kernels for found in made.values() for kernels in found]
        for variant, taken in times.items():
            args.report.add(
                variant, times=Times(tuple(taken)), quantity="kernels", value=len(expected),
                error=sum(len(expected ^ kernels) for kernels in others), tolerance=0,
                note=f"for {args.kind}, {_version()}", **common,
            )  # fmt: skip


def _times(jobs: list[Job], workers: int) -> Iterator[tuple[str, frozenset[str], float]]:
    """What each way is, its kernels, and seconds: of one process those that it compiles, of several
    also those of their start.
    """
    with _empty_cache():
        yield "in one process", *_compile(jobs, 1)
        yield "found in the disk cache", *_compile(jobs, 1)
    with _empty_cache():
        start = time.perf_counter()
        kernels, _ = _compile(jobs, workers)
        yield f"in {workers} processes", kernels, time.perf_counter() - start


def _compile(jobs: list[Job], workers: int) -> tuple[frozenset[str], float]:
    """Kernels, and the sum of their seconds."""
    found = [made for _, made in compiled(jobs, workers)]
    kernels = frozenset().union(*(made.kernels for made in found))
    return kernels, sum(made.seconds for made in found)


@contextmanager
def _empty_cache() -> Iterator[None]:
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": folder}),
    ):
        yield


def _version() -> str:
    return f"Triton {metadata.version('triton')}"
