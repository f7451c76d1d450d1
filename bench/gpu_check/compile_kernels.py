"""Stage: the Triton kernels that a part of this check needs, compiled by processes side by side.

They go into the folder of TRITON_CACHE_DIR, where later stages find them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from futurefill_kernels.cli.device import resolve_device
from futurefill_kernels.implementations.select import cannot_run

from .jobs import Job, jobs_of_models, jobs_of_times, small_jobs
from .stages import SUMMARY


def work(job: Job, device: str, impl: str) -> tuple[str, float, str]:
    """One job in a process of the pool: its name, its seconds, why it failed."""
    start, why = time.monotonic(), ""
    torch.set_num_threads(1)
    try:
        job.run(torch.device(device), impl)
        if device != "cpu":
            torch.cuda.synchronize()
    except Exception:
        why = traceback.format_exc()
    return str(job), time.monotonic() - start, why


def main() -> int:
    """Compile all. Returns 1 when a job failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", type=int, choices=(1, 2), default=1)
    parser.add_argument("--prototype", type=Path)
    args = parser.parse_args()
    device = resolve_device(args.device)
    impl = "triton" if device.type == "cuda" else "cpu"
    if cannot_run(device, torch.float32)[impl]:
        impl = "reference"
    if args.quick:
        todo = small_jobs(args.prototype)
    elif args.part == 1:
        todo = jobs_of_times(args.prototype)
    else:
        todo = jobs_of_models(device, impl)
    workers = min(len(todo), os.cpu_count() or 1)
    failed, done, seconds = 0, 0, 0.0
    start = time.monotonic()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(work, job, str(device), impl) for job in todo]
        for future in as_completed(running):
            name, took, why = future.result()
            done, seconds, failed = done + 1, seconds + took, failed + bool(why)
            print(f"{took:6.1f} s  {name}{' FAILED' if why else ''}\n{why}", end="", flush=True)
            print(
                f"{SUMMARY}{done} of {len(todo)} jobs, {failed} failed, {seconds:.0f} s of work in "
                f"{time.monotonic() - start:.0f} s by {workers} processes",
                flush=True,
            )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
