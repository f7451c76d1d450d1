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

#: A program of the first and the last pass: coefficients of every node, channels and warps.
_COEFFICIENTS, _CHANNELS, _WARPS = 4, CHANNEL_UNIT, 4


def long_fill(fill: Fill, config: LongConfig, first: int, last: int) -> None:
    """Future fill of channels first .. last-1, ``first`` a multiple of 32, of all layers."""
    for launch in long_launches(fill, config, first, last):
        launch.run()


def long_launches(fill: Fill, config: LongConfig, first: int, last: int) -> Iterator[Launch]:
    """In order; the workspace is reused."""
    layers, rows = len(fill.ring), fill.ring.shape[1] if fill.rows is None else len(fill.rows)
    transform = config.nodes * config.node.points
    for part in parts(transform, rows, layers, first, last, fill.ring.device):
        scratch = part.scratch.view(part.layers, rows, transform, 2, part.channels)
        yield from _passes(fill, config, scratch, part.layer, part.channel // CHANNEL_UNIT)


def _passes(
    fill: Fill, config: LongConfig, scratch: Tensor, layer: int, unit: int
) -> Iterator[Launch]:
    """scratch: (layers, rows, n, 2, width)."""
    ring, level, node = fill.ring, fill.level, config.node
    batch, lanes = ring.shape[1], ring.shape[4]
    layers, rows, _, _, width = scratch.shape
    twist = twist_table(config.nodes, node.points, 1, ring.device).view(torch.int64)
    programs = width // _CHANNELS
    grid = (programs * (node.points // _COEFFICIENTS), rows, layers)
    constants = {"ALL_ROWS": fill.rows is None, "T": level.block, "WIDTH": width, "LANES": lanes}
    outer = {
        **constants, "V": config.nodes, "M": node.points, "K": _COEFFICIENTS, "C": _CHANNELS,
    }  # fmt: skip
    options = {"num_warps": _WARPS, "enable_fp_fusion": True}
    here = (fill.positions, fill.rows, twist)
    opened, open_slots = fill.opened
    yield Launch(
        split_block_kernel, grid,
        (scratch, ring, *here, batch, fill.length, unit, layer, programs), outer, options,
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
        "FILTER_LANES": fill.spectra.shape[4],
    }  # fmt: skip
    yield Launch(
        transform_nodes_kernel,
        (width // node.channels, rows, layers * config.nodes), arguments, inner,
        {"num_warps": node.warps, "maxnreg": node.registers, "enable_fp_fusion": True},
    )  # fmt: skip
    yield Launch(
        merge_block_kernel, grid,
        (
            scratch, ring, opened, *here, batch, fill.length, open_slots, level.late, unit, layer,
            programs,
        ),
        outer, options,
    )  # fmt: skip
