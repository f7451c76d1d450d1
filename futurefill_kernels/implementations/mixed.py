"""Several GPU implementations in one stream: each part by what is fastest at it.

Ring, positions and taps are the same in all of them; kept input spectra and filter spectra of a
level are those of the implementation that does its fills.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..level import Level
from ..plan import Plan
from ..planning.capabilities import Capabilities
from ..state.layout import Layout
from ..state.spectra import tiled_spectra
from ..state.tensors import StreamState
from .base import Books, History, Implementation, PlainSteps, PromptKernels, Run, Step


class GpuFills(Protocol):
    """Fills whose filter spectra are ``tiled_spectra``, level by level in an order of their own;
    methods as of `Implementation`.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Of the implementation."""
        ...

    def cannot_run(self, device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
        """Reasons."""
        ...

    def arrange_level(self, spectra: Tensor, level: Level) -> None:
        """Bring the spectra of one level into the order that its fills read."""
        ...

    def fill(self, state: StreamState, level: Level, rows: Tensor | None) -> None:
        """One level's future fill of all layers."""
        ...

    def fill_share(
        self, state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int
    ) -> None:
        """Of one firing of a level with slack, the shares of steps ``begin .. end-1``."""
        ...


@dataclass(frozen=True)
class Mixed:
    """An `Implementation` for streams of one plan.

    steps, prompts: what does histories and steps, and prompts. fills: per level of the plan.
    """

    steps: Implementation
    prompts: Implementation
    fills: tuple[GpuFills, ...]

    @property
    def capabilities(self) -> Capabilities:
        """Those of what does the steps."""
        return self.steps.capabilities

    def cannot_run(self, device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
        """The reasons of all."""
        all_parts: tuple[GpuFills | Implementation, ...] = (
            self.steps, self.prompts, *self.fills,
        )  # fmt: skip
        parts = {part.capabilities.name: part for part in all_parts}
        return [
            f"{name} {reason}"
            for name, part in parts.items()
            for reason in part.cannot_run(device, dtype, plan)
        ]

    def make_layout(self, channels: int, groups: int, dtype: torch.dtype, plan: Plan) -> Layout:
        """The layout of all of them."""
        return self.steps.make_layout(channels, groups, dtype, plan)

    def make_spectra(self, h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> Tensor:
        """Filter spectra, of each level as what does its fills reads them."""
        spectra = tiled_spectra(h, plan, layout, dtype)
        for level, part in zip(plan.levels, self.fills, strict=True):
            if not level.made:
                part.arrange_level(spectra, level)
        return spectra

    def make_history(self, state: StreamState) -> History | None:
        """Of what does the steps."""
        return self.steps.make_history(state)

    def make_step(self, state: StreamState) -> Step:
        """Of what does the steps."""
        return self.steps.make_step(state)

    def make_plain_steps(
        self, state: StreamState, dtype: torch.dtype, books: Books
    ) -> PlainSteps | None:
        """Of what does the steps."""
        return self.steps.make_plain_steps(state, dtype, books)

    def make_due_fills(self, state: StreamState) -> Callable[[], None] | None:
        """None: the cache launches fills."""
        return None

    def scratch_nbytes(
        self, plan: Plan, layout: Layout, layers: int, batch_size: int, dtype: torch.dtype,
        narrow: bool,
    ) -> int:  # fmt: skip
        """Of what does the steps."""
        return self.steps.scratch_nbytes(plan, layout, layers, batch_size, dtype, narrow)

    def reserve_scratch(self, state: StreamState) -> int:
        """Of what does the steps."""
        return self.steps.reserve_scratch(state)

    def make_run(self, state: StreamState) -> Run | None:
        """None: many steps are as many calls."""
        return None

    def fill(self, state: StreamState, level: Level, rows: Tensor | None) -> None:
        """One level's future fill of all layers."""
        self.fills[level.index].fill(state, level, rows)

    def fill_share(
        self, state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int
    ) -> None:
        """Of one firing of a level with slack, the shares of steps ``begin .. end-1``."""
        self.fills[level.index].fill_share(state, level, rows, begin, end)

    def prompt_kernels(self) -> PromptKernels | None:
        """Of what does the prompts."""
        return self.prompts.prompt_kernels()
