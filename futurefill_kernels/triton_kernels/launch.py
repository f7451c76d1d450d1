"""Launches of both operations as data: kernel, grid and arguments, made from tensors and sizes.

The ops run them; tests compile them for other GPUs and run them where there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import fft_fill
from ..device import DeviceInfo
from ..gpu_layout import CHANNEL_UNIT
from ..plan import Level
from ..spectra import tree_order
from .config import STEP_CHANNELS, STEP_SHARED, FillConfig, step_config
from .future_fill import future_fill_kernel
from .multiply_accumulate import multiply_accumulate_kernel
from .short_range_step import short_range_step_kernel
from .tree import twiddle_table

_LEAVES, _MULTIPLY_CHANNELS = 32, 32


@dataclass(frozen=True)
class Launch:
    """One kernel launch. constants: compile-time arguments; options: of Triton's compiler."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, Any]

    def run(self) -> None:
        """Launch on the current stream of the arguments' device."""
        self.kernel[self.grid](*self.arguments, **self.constants, **self.options)


@dataclass(frozen=True)
class FillLevel:
    """The numbers of a level that a fill needs; see plan.Level.

    kept_offset, spectra_offset: where the level starts, in complex rows. late, extra: of a level
    with slack.
    """

    length: int
    block: int
    transform: int
    radix: int
    n_spectra: int
    kept: int
    kept_offset: int
    spectra_offset: int
    late: int = 0
    extra: int = 0


def step_launch(
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    ring: Tensor,
    taps: Tensor,
    skip: Tensor | None,
    positions: Tensor,
    rows: Tensor | None,
    layer: int,
    advance: bool,
    groups: int,
    info: DeviceInfo,
) -> Launch:
    """short_range_step of one layer. u, pre, post, y: (R, D), contiguous."""
    n_rows, channels = u.shape
    block = taps.shape[2]
    config = step_config(block, channels, n_rows, info, advance)
    grid = (-(-channels // config.channels), -(-n_rows // config.rows))
    arguments = (
        u, pre, post, y, ring, taps, skip, positions, rows, layer, ring.shape[1], ring.shape[3],
        n_rows, channels // groups, channels, ring.shape[4], taps.shape[3],
    )  # fmt: skip
    constants = {
        "ADVANCE": advance,
        "GROUPED": groups != channels,
        "T": block,
        "TILE": config.tile,
        "ROWS": config.rows,
        "S": min(config.tile, STEP_SHARED),
        "SECTORS": config.channels // STEP_CHANNELS,
        "VECTORS": STEP_CHANNELS // 4,
        "VECTOR": math.gcd(channels, 4),
    }
    options = {"num_warps": config.warps, "enable_fp_fusion": True}
    return Launch(short_range_step_kernel, grid, arguments, constants, options)


def fill_launch(
    ring: Tensor,
    kept: Tensor,
    spectra: Tensor,
    positions: Tensor,
    rows: Tensor | None,
    level: FillLevel,
    channels: int,
    groups: int,
    config: FillConfig,
    first: int = 0,
    last: int | None = None,
) -> Launch:
    """future_fill of one level, all layers and rows, channels first .. last-1 (default all)."""
    layers, batch = ring.shape[:2]
    last = channels if last is None else min(last, channels)
    programs = -(-(last - first) // config.channels)
    grid = (programs, batch if rows is None else len(rows), layers)
    arguments = (
        ring, kept, spectra, positions, rows, twiddle_table(ring.device),
        batch, level.length, level.radix, level.n_spectra, level.kept, channels // groups,
        level.late, level.extra, first // CHANNEL_UNIT, kept.shape[3], level.kept_offset,
        spectra.shape[2], level.spectra_offset,
    )  # fmt: skip
    constants = {
        "ALL_ROWS": rows is None,
        "GROUPED": groups != channels,
        "T": level.block,
        "N": level.transform,
        "R": config.residues,
        "C": config.channels,
        "LANES": ring.shape[4],
        "FILTER_LANES": spectra.shape[4],
    }
    options = {
        "num_warps": config.warps,
        "maxnreg": config.registers,
        "enable_fp_fusion": True,
    }
    return Launch(future_fill_kernel, grid, arguments, constants, options)


def multiply_launch(
    values: Tensor,
    kept: Tensor,
    spectra: Tensor,
    positions: Tensor,
    rows: Tensor,
    level: FillLevel,
    layer: int,
    first_channel: int,
    per_group: int,
) -> Launch:
    """Products of one layer's newest spectra values (R, n, width, 2), replaced by their sums."""
    n_rows, n, width, _ = values.shape
    grid = (-(-width // _MULTIPLY_CHANNELS), n_rows, -(-n // _LEAVES))
    arguments = (
        values, kept, spectra, positions, rows, _natural_order(n, values.device),
        kept.shape[1], layer, level.radix, level.n_spectra, level.kept, per_group,
        level.extra, first_channel, width, n, level.block, kept.shape[5], spectra.shape[4],
        kept.shape[3], level.kept_offset, spectra.shape[2], level.spectra_offset,
    )  # fmt: skip
    constants = {"GROUPED": per_group > 1, "LEAVES": _LEAVES, "C": _MULTIPLY_CHANNELS}
    options = {"num_warps": 8, "enable_fp_fusion": True}
    return Launch(multiply_accumulate_kernel, grid, arguments, constants, options)


@lru_cache(maxsize=32)
def _natural_order(n: int, device: torch.device) -> Tensor:
    return tree_order(n).to(device)


def fill_by_fft(
    ring: Tensor,
    kept: Tensor,
    spectra: Tensor,
    positions: Tensor,
    rows: Tensor | None,
    level: FillLevel,
    groups: int,
    channels: int,
    first: int,
    last: int,
) -> None:
    """Future fill of a level too long for one program, through torch.fft."""

    def products(values: Tensor, rows: Tensor, layer: int, first_channel: int) -> None:
        multiply_launch(
            values, kept, spectra, positions, rows, level, layer, first_channel, channels // groups
        ).run()

    numbers = Level(
        0, level.block, level.radix, level.transform, level.n_spectra, level.kept, level.late,
        extra=level.extra,
    )  # fmt: skip
    fft_fill.fill_by_fft(ring, positions, rows, numbers, level.length, first, last, products)
