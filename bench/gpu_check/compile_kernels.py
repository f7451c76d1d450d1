"""Stage: the Triton kernels that the models of this check need, compiled by processes side by side.

Every job runs one small workload, so that exactly what a model asks for is compiled, into the
folder of TRITON_CACHE_DIR, where later stages find it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch

import futurefill_kernels as ff
from futurefill_kernels.cli.device import resolve_device
from futurefill_kernels.implementations.select import cannot_run

from ..harness.models import stu_model
from .stages import SUMMARY


@dataclass(frozen=True)
class Convolutions:
    """A level's fill, or the steps and prompts of all layers (level None)."""

    batch: int
    channels: int
    layers: int
    length: int
    block_sizes: tuple[int, ...]
    level: int | None
    dtype: torch.dtype

    @torch.no_grad()
    def run(self, device: torch.device, impl: str) -> None:
        """Launch it once."""
        h = [torch.randn(self.channels, self.length, device=device)] * self.layers
        plan = ff.Plan(self.length, self.block_sizes)
        cache = ff.FutureFillCache(
            h, self.batch, self.length, plan=plan, impl=impl, dtype=self.dtype
        )
        if self.level is not None:
            level = cache.plan.levels[self.level]
            cache.state.positions.fill_(level.block)
            cache.implementation.fill(cache.state, level, None)
            return
        u = torch.ones(self.batch, self.channels, dtype=self.dtype, device=device)
        for layer in range(self.layers):
            cache.prefill(u[..., None].expand(-1, -1, 8).contiguous(), layer, pre=None, post=None)
        for gate in (None, u):
            for layer in range(self.layers):
                cache.step(u, layer, pre=gate, post=gate)


@dataclass(frozen=True)
class Tokens:
    """A few tokens of a model: "shipped", or "paper" with that many layers, width and ids."""

    model: str
    batch: int
    dtype: torch.dtype
    sizes: tuple[int, int, int] = (8, 1024, 200064)

    def run(self, device: torch.device, impl: str) -> None:
        """Generate them."""
        if self.model == "shipped":
            model = ff.nn.load_model().to(device, self.dtype)
        else:
            layers, width, vocabulary = self.sizes
            model = stu_model(
                layers, width, 256, vocabulary=vocabulary, mlp_hidden=12 * width, device=device,
                dtype=self.dtype,
            )  # fmt: skip
        prompt = torch.ones(self.batch, 4, dtype=torch.int64, device=device)
        ff.decode(model, prompt, 3, impl=impl)


Job = Convolutions | Tokens


def jobs(device: torch.device, impl: str, quick: bool) -> list[Job]:
    """What is to be compiled, the slowest first."""
    if quick:
        steps = Convolutions(1, 8, 1, 32, (4, 8), None, torch.float32)
        return [
            Convolutions(1, 8, 1, 32, (4, 8), 0, torch.float32), steps,
            Tokens("shipped", 1, torch.float32),
            Tokens("paper", 1, torch.bfloat16, (1, 16, 32)),
        ]  # fmt: skip
    found: dict[Job, int] = {}
    workloads = [  # batch, channels, layers, length, dtype
        *((batch, 192, 3, 1024, torch.float32) for batch in (1, 16, 64)),
        (1, 1024, 8, 4096, torch.bfloat16),
        (1, 1024, 24, 4096, torch.float32),
        (8, 1024, 24, 4096, torch.float32),
    ]
    for batch, channels, layers, length, dtype in workloads:
        plan = ff.make_plan(
            length, channels, batch_size=batch, layers=layers, dtype=dtype, device=device, impl=impl
        )
        if layers == 24:  # of the stage "kernels"
            plan = ff.Plan.continuous(length, 32)
        sizes = plan.block_sizes
        for level in plan.levels:
            job = Convolutions(batch, channels, layers, length, sizes, level.index, dtype)
            found[job] = level.block
        found[Convolutions(batch, channels, layers, length, sizes, None, dtype)] = 1 << 20
    found[Tokens("paper", 1, torch.bfloat16)] = 1 << 22
    for batch in (1, 16, 64):
        found[Tokens("shipped", batch, torch.float32)] = 1 << 21
    return sorted(found, key=lambda job: -found[job])


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
    args = parser.parse_args()
    device = resolve_device(args.device)
    impl = "triton" if device.type == "cuda" else "cpu"
    if cannot_run(device, torch.float32)[impl]:
        impl = "reference"
    todo = jobs(device, impl, args.quick)
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
