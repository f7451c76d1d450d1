"""Launches of a long fill: three per workspace of layers and channels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...state.layout import CHANNEL_UNIT
from ..gpu_passes import parts, twist_table
from .config import LongConfig
from .launch import Fill, Launch
from .long_fill import (
    merge_block_kernel,
    split_block_kernel,
    transform_nodes_kernel,
)
from .tree import twiddle_table

#: A program of the first and the last pass: coefficients of every node and warps, each a
#: coefficient of a unit of channels.
_COEFFICIENTS, _WARPS = 4, 4


def long_fill(fill: Fill, config: LongConfig, first: int, last: int) -> None:
    """Future fill of channels first .. last-1, ``first`` a multiple of 32, of all layers."""
    for launch in long_launches(fill, config, first, last):
        launch.run()


def long_launches(fill: Fill, config: LongConfig, first: int, last: int) -> Iterator[Launch]:
    """In order; the workspace is reused."""
    layers, rows = len(fill.ring), fill.ring.shape[1] if fill.rows is None else len(fill.rows)
    transform = config.nodes * config.node.points
    for part in parts(transform, rows, layers, first, last, fill.ring.device):
        units = part.channels // CHANNEL_UNIT
        scratch = part.scratch.view(part.layers, rows, units, transform, 2, CHANNEL_UNIT)
        yield from _passes(fill, config, scratch, part.layer, part.channel // CHANNEL_UNIT)


def _passes(
    fill: Fill, config: LongConfig, scratch: Tensor, layer: int, unit: int
) -> Iterator[Launch]:
    """scratch: (layers, rows, units, n, 2, 32), so that no kernel depends on how many units there
    are.
    """
    ring, level, node = fill.ring, fill.level, config.node
    batch, lanes = ring.shape[1], ring.shape[4]
    layers, rows, units = scratch.shape[:3]
    twist = twist_table(config.nodes, node.points, 1, ring.device).view(torch.int64)
    grid = (units * (node.points // _COEFFICIENTS), rows, layers)
    constants = {"ALL_ROWS": fill.rows is None, "T": level.block, "LANES": lanes}
    outer = {
        **constants, "V": config.nodes, "M": node.points, "K": _COEFFICIENTS, "C": CHANNEL_UNIT,
    }  # fmt: skip
    options = {"num_warps": _WARPS, "enable_fp_fusion": True}
    here = (fill.positions, fill.rows, twist)
    opened, open_slots = fill.opened
    yield Launch(
        split_block_kernel, grid,
        (scratch, ring, *here, batch, fill.length, unit, layer, units), outer, options,
    )  # fmt: skip
    arguments = (
        scratch, fill.kept, fill.spectra, fill.positions, fill.rows, twiddle_table(ring.device),
        batch, level.radix, level.n_spectra, level.kept, fill.channels_per_filter, level.extra,
        unit, layer, fill.kept.shape[3], level.kept_offset, fill.spectra.shape[2],
        level.spectra_offset,
    )  # fmt: skip
    inner = {
        **constants, "GROUPED": fill.channels_per_filter > 1, "KEEPS": level.kept > 0,
        "NODES": config.nodes, "V": node.values, "S": node.threads, "C": node.channels,
        "UNIT": CHANNEL_UNIT, "FILTER_LANES": fill.spectra.shape[4],
    }  # fmt: skip
    yield Launch(
        transform_nodes_kernel,
        (units * CHANNEL_UNIT // node.channels, rows, layers * config.nodes), arguments, inner,
        {"num_warps": node.warps, "maxnreg": node.registers, "enable_fp_fusion": True},
    )  # fmt: skip
    yield Launch(
        merge_block_kernel, grid,
        (
            scratch, ring, opened, *here, batch, fill.length, open_slots, level.late, unit, layer,
            units,
        ),
        outer, options,
    )  # fmt: skip
