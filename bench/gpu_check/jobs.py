"""What each part of the check compiles: small workloads, and kernels by their sizes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

import futurefill_kernels as ff
from futurefill_kernels.implementations.triton_kernels.sizes import StreamSizes
from futurefill_kernels.planning.device import DeviceInfo

from ..commands import gpu_fills
from ..harness.models import stu_model


class Job(Protocol):
    """Something that is run in a process of its own."""

    def run(self, device: torch.device, impl: str) -> None:
        """Run it once, so that what it needs is compiled."""
        ...


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


@dataclass(frozen=True)
class Kernels:
    """Kernels of a stream, by their name there, that Triton compiles from sizes alone."""

    sizes: StreamSizes
    name: str

    def run(self, device: torch.device, impl: str) -> None:
        """Compile; nothing is launched."""
        from futurefill_kernels.implementations.triton_kernels.ahead import stream_launches

        with torch.cuda.device(device):
            for launch in stream_launches(self.sizes, DeviceInfo.of(device))[self.name]:
                launch.compile()


@dataclass(frozen=True)
class Prompts:
    """A prompt with gates, and one in two calls without."""

    batch: int
    channels: int
    positions: int

    @torch.no_grad()
    def run(self, device: torch.device, impl: str) -> None:
        """Both."""
        h = torch.randn(self.channels, self.positions, device=device)
        cache = ff.FutureFillCache(h, self.batch, 64, impl=impl)
        u = torch.ones(self.batch, self.channels, self.positions, device=device)
        cache.prefill(u, pre=u, post=u)
        cache.reset()
        for part in u.split(self.positions // 2, -1):
            cache.prefill(part)


@dataclass(frozen=True)
class Prototype:
    """A fill of a prototype, of one row and layer."""

    file: Path
    block: int
    channels: int

    def run(self, device: torch.device, impl: str) -> None:
        """Launch it once, if it does the block."""
        module = gpu_fills.load_prototype(self.file)
        assert module is not None
        ring = torch.zeros(1, 1, 2 * self.block, self.channels, device=device)
        spectra = torch.zeros(1, self.block, 2, self.channels, device=device)
        positions = torch.full((1,), self.block, device=device)
        call = module.make_fill(ring, spectra, positions)
        if call is not None:
            call()


def small_jobs(prototype: Path | None) -> list[Job]:
    """Of --quick."""
    found: list[Job] = [
        Convolutions(1, 8, 1, 32, (4, 8), 0, torch.float32),
        Convolutions(1, 8, 1, 32, (4, 8), None, torch.float32),
        Tokens("shipped", 1, torch.float32),
        Tokens("paper", 1, torch.bfloat16, (1, 16, 32)),
        Prompts(2, 8, 32),
    ]
    return found + ([] if prototype is None else [Prototype(prototype, 16, 32)])


def jobs_of_times(prototype: Path | None) -> list[Job]:
    """Of the first part, the slowest first: fills with and without kept spectra, steps, prompts."""
    channels, found = 1024, []
    for block in (8, *gpu_fills.BLOCKS):
        # two blocks: one product; four: several, of whole blocks as planned ones are
        blocks = (2,) if block & (block - 1) else (2, 4)
        for count in blocks:
            sizes = StreamSizes(ff.Plan(count * block, (block,)), channels, channels, 24, 1)
            found.append((block * count, Kernels(sizes, f"fill of {block}")))
    for batch, layers in ((1, 24), (8, 8)):
        sizes = StreamSizes(ff.Plan(64, (32,)), channels, channels, layers, batch)
        steps = [sizes.step_name(False, last) for last in (False, True)]
        found += [(0, Kernels(sizes, name)) for name in (sizes.HISTORY, *steps)]
    jobs: list[Job] = [job for _, job in sorted(found, key=lambda pair: -pair[0])]
    if prototype is not None:
        jobs = [Prototype(prototype, block, channels) for block in gpu_fills.BLOCKS[::-1]] + jobs
    return [*jobs, *(Prompts(batch, channels, 2048) for batch in (1, 16))]


def jobs_of_models(device: torch.device, impl: str) -> list[Job]:
    """Of the second part, the slowest first: tokens of models and what they are made of."""
    found: dict[Job, int] = {}
    workloads: Sequence[tuple[int, int, int, int, torch.dtype]] = [
        # batch, channels, layers, length, dtype
        *((batch, 192, 3, 1024, torch.float32) for batch in (1, 16, 64)),
        (1, 1024, 8, 4096, torch.bfloat16),
    ]
    for batch, channels, layers, length, dtype in workloads:
        plan = ff.make_plan(
            length, channels, batch_size=batch, layers=layers, dtype=dtype, device=device, impl=impl
        )
        sizes = plan.block_sizes
        for level in plan.levels:
            job = Convolutions(batch, channels, layers, length, sizes, level.index, dtype)
            found[job] = level.block
        found[Convolutions(batch, channels, layers, length, sizes, None, dtype)] = 1 << 20
    for batch in (1, 8):  # of the stage "kernels"
        steps = Convolutions(batch, 1024, 24, 64, (32,), None, torch.float32)
        found[steps] = 1 << 20
    found[Tokens("paper", 1, torch.bfloat16)] = 1 << 22
    for batch in (1, 16, 64):
        found[Tokens("shipped", batch, torch.float32)] = 1 << 21
    return sorted(found, key=lambda job: -found[job])
