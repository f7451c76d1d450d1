"""Sizes of a stream and names of its kernels; no Triton, no device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...level import Level
from ...plan import Plan
from ...planning.capabilities import CAPABILITIES
from ...state.layout import Layout


@dataclass(frozen=True)
class StreamSizes:
    """A stream: plan, ``D``, ``G``, layers, rows, dtypes of inputs, filter spectra and slots.

    prompt: positions of a prompt, 0 for none. gates, skips: of its steps and prompt, whether there
    are any, or both. listed: whether calls may list some of the rows.
    """

    plan: Plan
    channels: int
    groups: int
    layers: int
    batch_size: int
    dtype: torch.dtype = torch.float32
    spectra_dtype: torch.dtype = torch.float32
    state_dtype: torch.dtype = torch.float32
    prompt: int = 0
    gates: tuple[bool, ...] = (False, True)
    skips: tuple[bool, ...] = (False, True)
    listed: bool = True

    HISTORY: ClassVar[str] = "history"
    PROMPT: ClassVar[str] = "prompt"

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
        """Levels that kernels fill with stored spectra; others are torch's."""
        own = CAPABILITIES["triton"]
        lanes = Layout.padded(self.channels, self.groups, self.plan.slots).lanes
        return [
            level for level in self.plan.levels
            if not level.made and own.has_kernels(level.transform, lanes)
        ]  # fmt: skip

    @property
    def step_names(self) -> list[str]:
        """Of everything but fills and the prompt."""
        lasts = (False, True) if self.layers > 1 else (True,)
        steps = [self.step_name(gated, last) for gated in self.gates for last in lasts]
        return [self.HISTORY, *steps]

    @property
    def narrow(self) -> bool:
        """Whether slots are of 16 bits, and a row has an open block."""
        return self.state_dtype != torch.float32
