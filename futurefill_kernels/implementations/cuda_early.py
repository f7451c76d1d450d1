"""Fills of ``impl="cuda"`` in a second form, which no GPU has timed yet: `tune` compares both.

Filter and kept spectra lie in tiles of 16 bytes per lane, those of the first product are asked for
before anything else, and the memory adds outputs to the pending ones, so that nothing is waited for
at the end. All else is `cuda`'s, and so is a ring in 16 bits, to which no memory adds a float32
with one rounding: `gpu_choice.of_levels` leaves this form out there.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from .. import ops
from ..level import Level
from ..state.layout import Layout
from ..state.tensors import StreamState
from . import cuda
from .cuda import cannot_run

__all__ = ["TILES", "arrange_level", "cannot_run", "capabilities", "fill", "fill_share"]

capabilities = replace(cuda.capabilities, name="cuda_early", ring_dtypes=())

#: block -> channels of a tile, those of a thread block (csrc/cuda/fill_config.h); `cuda` does all
#: other levels
TILES = {64: 32, 128: 32, 256: 16, 512: 8, 1024: 8, 2048: 8}


def does(level: Level) -> bool:
    """Whether a level has this form."""
    return level.block in TILES and not level.made


def arrange_level(spectra: Tensor, level: Level, h: Tensor, layout: Layout) -> None:
    """Bring one level of ``tiled_spectra`` into the order that its fills read."""
    if does(level):
        cuda.interleave(spectra, level, 1, TILES[level.block])
    else:
        cuda.arrange_level(spectra, level, h, layout)


def fill(state: StreamState, level: Level, rows: Tensor | None) -> None:
    """One level's future fill of all layers and rows."""
    if does(level):
        ops.early_fill(state, level.index, rows, 0, state.layout.lanes)
    else:
        cuda.fill(state, level, rows)


def fill_share(state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int) -> None:
    """Of one firing of a level with slack, the shares of steps ``begin .. end-1``."""
    if not does(level):
        cuda.fill_share(state, level, rows, begin, end)
        return
    first, last = state.layout.channels_of_share(level, begin, end)
    if first < last:
        ops.early_fill(state, level.index, rows, first, last)
