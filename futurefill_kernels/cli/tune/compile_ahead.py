"""``tune --compile``: Triton's disk cache is warm before the first token of a stream."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from ...implementations import triton
from ...implementations.select import on_this_gpu
from ...implementations.triton_kernels.sizes import StreamSizes
from ...planning import gpu_choice
from ...planning.device import DeviceInfo
from ...planning.make_plan import make_plan
from ...planning.workload import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--compile`` and the sizes of the stream."""
    group = parser.add_argument_group("compiling a stream's Triton kernels")
    group.add_argument(
        "--compile", action="store_true", help="compile into Triton's disk cache, measure nothing"
    )
    group.add_argument("--length", type=int, default=4096, help="tokens of the stream")
    group.add_argument("--channels", type=int, default=1024, help="of a layer")
    group.add_argument("--groups", type=int, help="filter rows; channels if unset")
    group.add_argument("--layers", type=int, default=1, help="long convolutions")
    group.add_argument("--batch-size", type=int, default=1, help="rows")
    group.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of inputs"
    )


def run(args: argparse.Namespace, device: torch.device) -> None:
    """Compile in as many processes as there are processors, and print seconds.

    Raises RuntimeError with the reasons where Triton cannot run.
    """
    start = time.perf_counter()
    jobs = list(_jobs(args, device))
    workers = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for job, seconds in zip(jobs, pool.map(_Job.run, jobs), strict=True):
            print(f"{job.name:<24} {seconds:6.1f} s")
    print(f"{len(jobs)} parts in {time.perf_counter() - start:.1f} s, {workers} at a time")


@dataclass(frozen=True)
class _Job:
    """A kernel of a stream, or the three of a long fill."""

    device: torch.device
    sizes: StreamSizes
    name: str

    def run(self) -> float:
        """Compile; the seconds, few where the cache has it."""
        from ...implementations.triton_kernels.ahead import stream_launches

        launches = stream_launches(self.sizes, DeviceInfo.of(self.device))[self.name]
        start = time.perf_counter()
        with torch.cuda.device(self.device):
            for launch in launches:
                launch.compile()
        return time.perf_counter() - start


def _jobs(args: argparse.Namespace, device: torch.device) -> Iterator[_Job]:
    """Of the kernels that ``impl="auto"`` takes from Triton, the longest to compile first."""
    impls = on_this_gpu(device, torch.float32) if device.type == "cuda" else ()
    if "triton" not in impls:
        reasons = triton.cannot_run(device, torch.float32, None)
        raise RuntimeError(f"no Triton kernels to compile on {device}: {'; '.join(reasons)}")
    info, groups = DeviceInfo.of(device), args.groups or args.channels
    plan = make_plan(
        args.length, args.channels, batch_size=args.batch_size, layers=args.layers, groups=groups,
        device=info, impl="auto" if len(impls) > 1 else "triton",
    )  # fmt: skip
    sizes = StreamSizes(
        plan, args.channels, groups, args.layers, args.batch_size, getattr(torch, args.dtype)
    )
    workload = Workload(
        args.length, args.length, args.channels, args.batch_size, args.layers, groups, impls=impls
    )
    fills = zip(plan.levels, gpu_choice.of_levels(plan, workload, info), strict=True)
    names = [
        sizes.fill_name(level) for level, impl in fills if impl == "triton" and not level.made
    ][::-1]
    if next(name for name in gpu_choice.order(info) if name in impls) == "triton":
        names += sizes.step_names
    for name in names:
        yield _Job(device, sizes, name)
