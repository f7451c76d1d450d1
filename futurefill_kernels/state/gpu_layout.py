"""The layout that both GPU implementations share: one tile, channels padded to whole warps.

With one tile and G filter rows stored once, ring is (layers, B, 1, N, C), kept (layers, B, 1, rows,
2, C), taps (layers, 1, T_0, F) and spectra (layers, 1, rows, 2, F), where C and F are the channels
and filter rows rounded up to 32: every row of 32 float32 values starts at a 128-byte line.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..plan import Level, Plan
from .spectra import filter_spectra
from .tensors import Layout, tile_filters

#: Channels per padded unit: a warp's lanes, and one 128-byte line of float32.
CHANNEL_UNIT = 32


def _padded(n: int) -> int:
    return -(-n // CHANNEL_UNIT) * CHANNEL_UNIT


def make_layout(channels: int, groups: int, dtype: torch.dtype, plan: Plan) -> Layout:
    """One tile of all channels; filter row ``d // (D/G)`` serves channel ``d``."""
    return Layout(channels, groups, _padded(channels), _padded(groups), plan.length, side_by_side=0)


def share_channels(layout: Layout, level: Level, begin: int, end: int) -> tuple[int, int]:
    """Channels whose part of a firing belongs to the shares of steps ``begin .. end-1``.

    Returns (first, last + 1), whole units of the padded channels: an even split over the steps.
    """
    units, steps = layout.lanes // CHANNEL_UNIT, max(level.steps, 1)
    first, last = units * begin // steps, units * min(end, steps) // steps
    return first * CHANNEL_UNIT, last * CHANNEL_UNIT


def make_spectra(h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> Tensor:
    """Filter spectra in tree order, scaled by 1/n. h: (G, L) -> (1, rows, 2, filter_lanes)."""
    return tile_filters(filter_spectra(h, plan, dtype), layout)
