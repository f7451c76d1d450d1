"""Sizes of a stream and names of its kernels; no Triton, no device."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...level import Level
from ...plan import Plan


@dataclass(frozen=True)
class StreamSizes:
    """A stream: plan, ``D``, ``G``, layers, rows, dtypes of inputs and filter spectra."""

    plan: Plan
    channels: int
    groups: int
    layers: int
    batch_size: int
    dtype: torch.dtype = torch.float32
    spectra_dtype: torch.dtype = torch.float32

    HISTORY: ClassVar[str] = "history"

    @staticmethod
    def step_name(gated: bool, last: bool) -> str:
        """Of the step of a layer, the last one or another."""
        return f"step{' with gates' if gated else ''}{', last layer' if last else ''}"

    @staticmethod
    def fill_name(level: Level) -> str:
        """Of a level's fill."""
        return f"fill of {level.block}"

    @property
    def stored_levels(self) -> list[Level]:
        """Levels whose filter spectra are stored; others are torch's."""
        return [level for level in self.plan.levels if not level.made]

    @property
    def step_names(self) -> list[str]:
        """Of everything but fills."""
        steps = itertools.product((False, True), repeat=2)
        return [self.HISTORY, *(self.step_name(gated, last) for gated, last in steps)]
