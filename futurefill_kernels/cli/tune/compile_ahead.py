"""``tune --compile``: Triton's disk cache is warm before the first token of a stream."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ...implementations import triton
from ...implementations.select import candidates
from ...implementations.triton_kernels.sizes import StreamSizes
from ...planning import gpu_choice
from ...planning.capabilities import on_gpus, planned_for
from ...planning.device import DeviceInfo
from ...planning.make_plan import make_plan
from ...planning.workload import Workload

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--compile`` and the sizes of the stream."""
    group = parser.add_argument_group("compiling a stream's Triton kernels")
    group.add_argument(
        "--compile", action="store_true", help="compile into Triton's disk cache, measure nothing"
    )
    group.add_argument(
        "--for", dest="kind", choices=DeviceInfo.names(),
        help="a kind of GPU, which need not be here, in place of --device",
    )  # fmt: skip
    group.add_argument("--impl", choices=("auto", "triton"), default="auto", help="of the stream")
    group.add_argument("--length", type=int, default=4096, help="tokens of the stream")
    group.add_argument("--prompt", type=int, default=0, help="positions of the prompt")
    group.add_argument("--channels", type=int, default=1024, help="of a layer")
    group.add_argument("--groups", type=int, help="filter rows; channels if unset")
    group.add_argument("--layers", type=int, default=1, help="long convolutions")
    group.add_argument("--batch-size", type=int, default=1, help="rows")
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="of inputs")
    group.add_argument("--spectra-dtype", choices=DTYPES[:2], help="of filter spectra")
    group.add_argument("--state-dtype", choices=DTYPES, help="of inputs and pending outputs")
    for name in ("gates", "skip"):
        group.add_argument(
            f"--{name}", action=argparse.BooleanOptionalAction,
            help="of its steps and prompt; with and without if unset",
        )  # fmt: skip
    group.add_argument("--workers", type=int, help="processes; one per processor if unset")


def run(args: argparse.Namespace, device: torch.device) -> None:
    """Compile in as many processes as there are processors, and print kernels and seconds.

    Raises RuntimeError with the reasons where Triton cannot run.
    """
    start = time.perf_counter()
    jobs = jobs_of(args, device)
    workers = min(len(jobs), args.workers or os.cpu_count() or 1)
    kernels: set[str] = set()
    for job, found in compiled(jobs, workers):
        print(f"{job.name:<28} {len(found.kernels):3} {found.seconds:6.1f} s")
        kernels.update(found.kernels)
    seconds = time.perf_counter() - start
    print(f"{len(kernels)} kernels in {seconds:.1f} s, {workers} processes")


class Compiled(NamedTuple):
    """Hashes of kernels, and the seconds that compiling them took, few where the cache has them."""

    kernels: frozenset[str]
    seconds: float


@dataclass(frozen=True)
class Job:
    """A part of a stream: of its kernels those that do one thing.

    device: that will run it, or the kind of one.
    """

    device: torch.device | DeviceInfo
    sizes: StreamSizes
    name: str

    def run(self) -> Compiled:
        """Compile all of them."""
        from ...implementations.triton_kernels.ahead import stream_launches
        from ...implementations.triton_kernels.target import compile_for

        launches = stream_launches(self.sizes, DeviceInfo.of(self.device))[self.name]
        start = time.perf_counter()
        with ExitStack() as there:
            if isinstance(self.device, DeviceInfo):
                compile_for(self.device.capability)
            else:
                there.enter_context(torch.cuda.device(self.device))
            kernels = frozenset(launch.compile().hash for launch in launches)
        return Compiled(kernels, time.perf_counter() - start)


def compiled(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Compiled]]:
    """Every job and what it made, in processes side by side."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from zip(jobs, pool.map(Job.run, jobs), strict=True)


def jobs_of(args: argparse.Namespace, device: torch.device) -> list[Job]:
    """Of what ``impl`` takes from Triton, the longest to compile first."""
    where = device if args.kind is None else DeviceInfo.named(args.kind)
    spectra, state = (
        None if name is None else getattr(torch, name)
        for name in (args.spectra_dtype, args.state_dtype)
    )
    impls = _implementations(args.impl, where, spectra, state)
    info, groups = DeviceInfo.of(where), args.groups or args.channels
    plan = make_plan(
        args.length, args.channels, batch_size=args.batch_size, layers=args.layers, groups=groups,
        device=info, impl="auto" if len(impls) > 1 else "triton", spectra_dtype=spectra,
        state_dtype=state,
    )  # fmt: skip
    full = torch.float32
    gates, skips = (
        (False, True) if given is None else (given,) for given in (args.gates, args.skip)
    )
    sizes = StreamSizes(
        plan, args.channels, groups, args.layers, args.batch_size, getattr(torch, args.dtype),
        spectra or full, state or full, args.prompt, gates, skips,
    )  # fmt: skip
    workload = Workload(
        args.length, args.length, args.channels, args.batch_size, args.layers, groups, impls=impls,
        spectra_itemsize=(spectra or full).itemsize, ring_itemsize=(state or full).itemsize,
    )  # fmt: skip
    fills = zip(plan.levels, gpu_choice.of_levels(plan, workload, info), strict=True)
    names = [
        sizes.fill_name(level)
        for level, impl in fills
        if impl == "triton" and level in sizes.stored_levels
    ][::-1]
    if gpu_choice.of_steps(plan, workload, info) == "triton":
        names += sizes.step_names
    own = [name for name in impls if name in on_gpus()]
    fits = [name for least, name in gpu_choice.of_prompts(own, info) if least <= args.prompt]
    if args.prompt and fits[-1] == "triton":
        names.append(sizes.PROMPT)
    return [Job(where, sizes, name) for name in names]


def _implementations(
    impl: str,
    where: torch.device | DeviceInfo,
    spectra: torch.dtype | None,
    state: torch.dtype | None,
) -> tuple[str, ...]:
    """Those that the stream takes its parts from."""
    if isinstance(where, DeviceInfo):
        found, reasons = planned_for("auto", spectra), triton.cannot_compile()
    else:
        here = where.type == "cuda"
        found = candidates("auto", where, torch.float32, None, spectra, state) if here else ()
        reasons = triton.cannot_run(where, torch.float32, None)
    if reasons or "triton" not in found:
        named = where.name if isinstance(where, DeviceInfo) else where
        raise RuntimeError(f"no Triton kernels to compile on {named}: {'; '.join(reasons)}")
    return found if impl == "auto" else (impl,)
