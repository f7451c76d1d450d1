"""Triton's kernels that are going to be measured, compiled side by side before any clock runs."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from ...implementations.triton_kernels.sizes import StreamSizes
from ...plan import Plan
from ...planning.device import DeviceInfo
from .measure_kernels import Sizes


@dataclass(frozen=True)
class Job:
    """Some kernels of a stream, by their names."""

    device: torch.device
    info: DeviceInfo
    sizes: StreamSizes
    names: tuple[str, ...]

    def run(self) -> int:
        """Compile them, or find them in Triton's disk cache; how many they are."""
        from ...implementations.triton_kernels.ahead import stream_launches

        found = stream_launches(self.sizes, self.info)
        launches = [launch for name in self.names for launch in found[name]]
        with torch.cuda.device(self.device):
            for launch in launches:
                launch.compile()
        return len(launches)


def jobs(device: torch.device, info: DeviceInfo, sizes: Sizes) -> list[Job]:
    """A fill of every block, the longest to compile first, and the steps of every number of rows.

    Kernels do not depend on numbers of layers and rows, but for the one of a history.
    """
    found = []
    for block in sorted({block for block, _, _ in sizes.fills}, reverse=True):
        own = _stream(sizes.channels, block, 1, 1)
        found.append(Job(device, info, own, (own.fill_name(own.plan.levels[0]),)))
    for block, layers, rows in {rows: size for size in sizes.steps for rows in size[2:]}.values():
        own = _stream(sizes.channels, block, layers, rows)
        steps = tuple(own.step_name(gated=False, last=last) for last in (False, True))
        found.append(Job(device, info, own, (own.HISTORY, *steps)))
    return found


def _stream(channels: int, block: int, layers: int, rows: int) -> StreamSizes:
    plan = Plan(2 * block, (block,))
    return StreamSizes(
        plan, channels, channels, layers, rows, gates=(False,), skips=(False,), listed=False
    )


def compile_measured(device: torch.device, sizes: Sizes) -> str:
    """What was compiled, in how many seconds, for people."""
    start = time.perf_counter()
    kernels, workers = _compile(jobs(device, DeviceInfo.of(device), sizes))
    seconds = time.perf_counter() - start
    return f"{kernels} Triton kernels compiled in {seconds:.1f} s, {workers} at a time"


def _compile(found: Sequence[Job]) -> tuple[int, int]:
    workers = min(len(found), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(Job.run, found)), workers
