"""How channels and time lie in memory, and a stream's arrays as plain (B, D, T).

Channels are the fastest dimension, in tiles of ``lanes`` channels; time comes next
(docs/conventions.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..level import Level

#: Channels per padded unit on a GPU: a warp's lanes, and one 128-byte line of float32.
CHANNEL_UNIT = 32


@dataclass(frozen=True)
class Layout:
    """How an implementation stores channels and time; a record of numbers.

    channels: ``D``. groups: filter rows stored (``G``, or ``D`` after expansion).
    lanes: channels per tile; the channels are padded to a multiple of it.
    filter_lanes: filter rows per tile, 1 where one row serves a whole tile.
    slots: ring slots, at least the plan's length.
    direct: levels up to this block size are direct products with the taps.
    side_by_side: tiles worked on together in levels with slack, 0 where a share is done at once.
    work_gaps: rows that a transform under way may take beyond its length.
    history: whether a token begins with sums over the older inputs of all layers, which are stored.
    spectra: whether filter spectra are prepared; without, fills read the taps.
    """

    channels: int
    groups: int
    lanes: int
    filter_lanes: int
    slots: int
    direct: int = 0
    side_by_side: int = 1
    work_gaps: int = 0
    history: bool = False
    spectra: bool = True

    @classmethod
    def padded(cls, channels: int, groups: int, slots: int) -> Layout:
        """Of both GPU implementations: one tile, channels padded to whole warps.

        ring is (layers, B, 1, N, C), kept (layers, B, 1, rows, 2, C), taps (layers, 1, T_0, F) and
        spectra (layers, 1, rows, 2, F), where C and F are the channels and the G filter rows, each
        stored once, rounded up to 32: every row of 32 float32 values starts at a 128-byte line.
        """
        lanes, filter_lanes = (-(-n // CHANNEL_UNIT) * CHANNEL_UNIT for n in (channels, groups))
        return cls(channels, groups, lanes, filter_lanes, slots, side_by_side=0, history=True)

    def work_rows(self, level: Level) -> int:
        """Complex rows of a level's transform under way, 0 for one that is due at once."""
        return 0 if level.plain else level.transform + self.work_gaps

    def is_direct(self, level: Level) -> bool:
        """Whether a level is a direct product with its taps."""
        return level.plain and not level.made and level.block <= self.direct

    def channels_of_share(self, level: Level, begin: int, end: int) -> tuple[int, int]:
        """Channels whose part of a firing belongs to the shares of steps ``begin .. end-1``.

        Returns (first, last + 1), whole units of the padded channels: an even split over the steps.
        """
        units, steps = self.lanes // CHANNEL_UNIT, max(level.steps, 1)
        first, last = units * begin // steps, units * min(end, steps) // steps
        return first * CHANNEL_UNIT, last * CHANNEL_UNIT

    @property
    def channels_per_filter(self) -> int:
        """Channels that a stored filter row serves: channel ``d`` uses row ``d // this``."""
        return self.channels // self.groups

    @property
    def tiles(self) -> int:
        """Tiles of ``lanes`` channels."""
        return -(-self.channels // self.lanes)

    @property
    def filter_tiles(self) -> int:
        """Tiles of ``filter_lanes`` filter rows."""
        return -(-self.groups // self.filter_lanes)


def to_tiles(x: Tensor, layout: Layout) -> Tensor:
    """(..., D, T) -> (..., tiles, T, lanes), padded channels zero."""
    x = torch.nn.functional.pad(x, (0, 0, 0, layout.tiles * layout.lanes - layout.channels))
    return x.unflatten(-2, (layout.tiles, layout.lanes)).transpose(-1, -2)


def from_tiles(x: Tensor, layout: Layout) -> Tensor:
    """(..., tiles, T, lanes) -> (..., D, T)."""
    return x.transpose(-1, -2).flatten(-3, -2)[..., : layout.channels, :]


def tile_filters(rows: Tensor, layout: Layout) -> Tensor:
    """(..., G) time-major filter rows -> (filter tiles, ..., filter_lanes), contiguous."""
    pad = layout.filter_tiles * layout.filter_lanes - layout.groups
    rows = torch.nn.functional.pad(rows, (0, pad))
    return (
        rows.unflatten(-1, (layout.filter_tiles, layout.filter_lanes)).movedim(-2, 0).contiguous()
    )
