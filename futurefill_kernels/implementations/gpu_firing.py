"""A firing of a level in plain torch: inputs out of the ring, outputs back into the slots.

Rows may be at different positions, which are read on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..level import Level


def inputs_at(source: Tensor, ring: Tensor, channels: slice) -> Tensor:
    """(layers, R, T, width) float32, some channels of a ring (layers, B, 1, N, C). source: (R, T),
    as of `Firing`.
    """
    found = ring.flatten(1, 3)[:, :, channels][:, source.flatten()]
    return found.unflatten(1, source.shape).float()


@dataclass(frozen=True)
class Firing:
    """Of R rows of a ring (layers, B, 1, N, C) of ``length`` slots.

    rows, blocks: (R,) int64, the state's rows, 0 for padding, and the blocks that they have
    finished. own: (R,) those of them in the group, 0 for padding and where the level does not fire.
    """

    level: Level
    length: int
    rows: Tensor
    blocks: Tensor
    own: Tensor

    @classmethod
    def of(cls, level: Level, length: int, positions: Tensor, rows: Tensor | None) -> Firing:
        """rows: (R,) int64, -1 for padding, or None for all."""
        if rows is None:
            rows = torch.arange(len(positions), device=positions.device)
        row = rows.clamp(min=0)
        here = positions[row]
        blocks = here // level.block
        at = blocks * level.block
        group = (blocks - level.extra).clamp(min=0) // level.radix * level.radix
        fires = (rows >= 0) & (at + level.late < length) & (here - at < max(level.late, 1))
        return cls(level, length, row, blocks, (blocks - group).where(fires, 0))

    @property
    def _at(self) -> Tensor:
        """(R,) where the newest block ends; of rows that do not fire, where any could."""
        return (self.blocks * self.level.block).where(self.own > 0, self.level.block)

    def _slots(self, first: Tensor) -> Tensor:
        """(R, T) slots of a block from ``first`` (R,) on."""
        return first[:, None] + torch.arange(self.level.block, device=first.device)

    def source(self, k: int = 1) -> Tensor:
        """(R, T) where the k-th newest blocks lie in a layer. Of rows whose group has fewer: where
        any could.
        """
        first = (self._at - k * self.level.block).clamp(min=0)
        return self.rows[:, None] * self.length + self._slots(first)

    @cached_property
    def _target(self) -> tuple[Tensor, Tensor]:
        """(R, T) where outputs go in a layer, and (R, T, 1) whether there is such a slot."""
        target = self._slots(self._at + self.level.late)
        inside = ((self.own > 0)[:, None] & (target < self.length))[..., None]
        # what is outside adds zero, to a slot of its own
        return self.rows[:, None] * self.length + target % self.length, inside

    def add(self, ring: Tensor, open_block: Tensor, channels: slice, filled: Tensor) -> None:
        """Add outputs (layers, R, T, width) to the ring and, of one in 16 bits, to the open block
        (layers, B, 1, T_0 or 0, C). Rows that do not fire, and what is behind the end, stay.
        """
        target, inside = self._target
        filled = filled.where(inside, 0)
        opened = min(open_block.shape[3], self.level.block)
        slots = ring.flatten(1, 3)[:, :, channels]
        if opened:
            first = self.rows[:, None] * opened + torch.arange(opened, device=ring.device)
            opening = open_block.flatten(1, 3)[:, :, channels]
            opening.index_add_(1, first.flatten(), filled[:, :, :opened].flatten(1, 2))
        if ring.dtype == filled.dtype:
            slots.index_add_(1, target.flatten(), filled.flatten(1, 2))
            return
        # sums are rounded once; row after row, since padding names one again
        for r, own in enumerate(target[:, opened:]):
            slots[:, own] = (slots[:, own].float() + filled[:, r, opened:]).to(ring.dtype)
