"""Launches of the operations as data: kernel, grid and arguments, made from tensors and sizes.

The ops run them; tests compile them for other GPUs and run them where there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...level import Level
from ...planning.device import DeviceInfo
from ...state.layout import CHANNEL_UNIT
from .apply_step import apply_step_kernel
from .config import KNOWN_LANES, FillConfig, history_config
from .future_fill import future_fill_kernel
from .history import history_kernel
from .prefill import prefill_inputs_kernel, prefill_outputs_kernel
from .tree import twiddle_table

_APPLY_CHANNELS = 128
_PREFILL_TILE = 1024
_PREFILL_POSITIONS, _PREFILL_CHANNELS = 64, 32


@dataclass(frozen=True)
class Launch:
    """One kernel launch. constants: compile-time arguments; options: of Triton's compiler."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, Any]

    def run(self) -> None:
        """Launch on the current stream of the first argument's device."""
        there = self.arguments[0].get_device()  # -1 is the CPU
        if there < 0 or there == torch.cuda.current_device():
            self.kernel[self.grid](*self.arguments, **self.constants, **self.options)
        else:  # Triton launches on the current device
            with torch.cuda.device(there):
                self.run()

    def compile(self) -> Any:
        """Compile for the current device, or find it in Triton's disk cache; nothing is launched.
        Returns what Triton made of it.

        The arguments may be on ``meta``.
        """
        warmup = self.kernel.warmup
        return warmup(*self.arguments, grid=self.grid, **self.constants, **self.options)


@dataclass(frozen=True)
class Fill:
    """A level's fill of a stream whose layout is ``Layout.padded``.

    ring: (layers, B, 1, N, lanes). open_block: (layers, B, 1, T_0 or 0, lanes). kept: (layers, B,
    1, rows, 2, lanes). spectra: (layers, 1, rows, 2, filter lanes). positions: (B,) int64. rows:
    (R,) int64 or None for all.
    """

    ring: Tensor
    open_block: Tensor
    kept: Tensor
    spectra: Tensor
    positions: Tensor
    rows: Tensor | None
    level: Level
    channels_per_filter: int

    @property
    def length(self) -> int:
        """Positions of the ring, ``N``."""
        return self.ring.shape[3]

    @property
    def opened(self) -> tuple[Tensor | None, int | None]:
        """As `open_slots_of` the open block."""
        return open_slots_of(self.open_block)


def open_slots_of(open_block: Tensor) -> tuple[Tensor | None, int | None]:
    """The open block and its slots as kernels take them: None, which the compiler leaves out, where
    the ring has these slots.
    """
    slots = open_block.shape[3]
    return (open_block, slots) if slots else (None, None)


def history_launch(
    ring: Tensor,
    open_block: Tensor,
    taps: Tensor,
    positions: Tensor,
    rows: Tensor | None,
    token_at: Tensor,
    undo: Tensor,
    history: Tensor,
    channels_per_filter: int,
    info: DeviceInfo,
) -> Launch:
    """history of all layers; tensors as of Layout.padded."""
    layers, batch, _, slots, lanes = ring.shape
    n_rows = batch if rows is None else len(rows)
    config = history_config(layers, lanes, n_rows, info)
    grid = (-(-lanes // config.channels), -(-n_rows // config.rows), layers)
    opened, open_slots = open_slots_of(open_block)
    arguments = (
        ring, opened, taps, positions, rows, token_at, undo, history,
        batch, slots, open_slots, n_rows, channels_per_filter, taps.shape[2], undo.shape[3], lanes,
        taps.shape[3],
    )  # fmt: skip
    constants = {
        "GROUPED": channels_per_filter > 1,
        "ROWS": config.rows,
        "PLACES": config.places,
        "STEPS": config.steps,
        "CHANNELS": config.channels,
    }
    return Launch(history_kernel, grid, arguments, constants, {"num_warps": 1})


def apply_launch(
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    ring: Tensor,
    open_block: Tensor,
    taps: Tensor,
    skip: Tensor | None,
    history: Tensor,
    token_at: Tensor,
    positions: Tensor,
    rows: Tensor | None,
    layer: int,
    advance: bool,
    channels_per_filter: int,
) -> Launch:
    """apply_step of one layer. u, pre, post, y: (R, D), contiguous in D."""
    n_rows, channels = u.shape
    grid = (-(-channels // _APPLY_CHANNELS), n_rows)
    strides = [0 if x is None else x.stride(0) for x in (u, pre, post, y)]
    vector = math.gcd(4, channels, *strides)
    opened, open_slots = open_slots_of(open_block)
    arguments = (
        u, pre, post, y, ring, opened, taps, skip, history, token_at, positions, rows,
        layer, ring.shape[1], ring.shape[3], open_slots, taps.shape[2], channels_per_filter,
        channels // vector, *(stride // vector for stride in strides), ring.shape[4], taps.shape[3],
    )  # fmt: skip
    constants = {
        "ADVANCE": advance,
        "GROUPED": channels_per_filter > 1,
        "CHANNELS": _APPLY_CHANNELS,
        "VECTOR": vector,
    }
    return Launch(apply_step_kernel, grid, arguments, constants, {"num_warps": 1})


def fill_launch(fill: Fill, config: FillConfig, first: int, last: int) -> Launch:
    """future_fill of all layers and rows, of channels first .. last-1."""
    ring, kept, spectra, level = fill.ring, fill.kept, fill.spectra, fill.level
    layers, batch = ring.shape[:2]
    opened, open_slots = fill.opened
    programs = -(-(last - first) // config.channels)
    grid = (programs, batch if fill.rows is None else len(fill.rows), layers)
    arguments = (
        ring, opened, kept, spectra, fill.positions, fill.rows, twiddle_table(ring.device),
        batch, fill.length, open_slots, level.radix, level.n_spectra, level.kept,
        fill.channels_per_filter, level.late, level.extra, first // CHANNEL_UNIT, kept.shape[3],
        level.kept_offset, spectra.shape[2], level.spectra_offset, ring.shape[4], spectra.shape[4],
    )  # fmt: skip
    known = level.kept > 0 or config.values >= KNOWN_LANES
    constants = {
        "ALL_ROWS": fill.rows is None,
        "GROUPED": fill.channels_per_filter > 1,
        "KEEPS": level.kept > 0,
        "WHOLE": level.block == level.transform and (fill.length - level.late) % level.block == 0,
        "T": level.block,
        "V": config.values,
        "S": config.threads,
        "C": config.channels,
        "LANES": ring.shape[4] if known else 0,
        "FILTER_LANES": spectra.shape[4] if known else 0,
    }
    options = {
        "num_warps": config.warps,
        "maxnreg": config.registers,
        "enable_fp_fusion": True,
    }
    return Launch(future_fill_kernel, grid, arguments, constants, options)


def prefill_inputs_launch(
    u: Tensor, pre: Tensor | None, lengths: Tensor | None, x: Tensor, held: Tensor | None
) -> Launch:
    """Gated inputs u (R, C, P) into x (R, C, n >= P) and held (R, C, P)."""
    rows, channels, width = x.shape
    tile = min(_PREFILL_TILE, 1 << (width - 1).bit_length())
    together = _PREFILL_TILE // tile
    grid = (-(-width // tile), -(-channels // together), rows)
    arguments = (
        u, pre, lengths, x, held, channels, u.shape[2], width, *_strides(u, pre, x, held),
        0,
    )  # fmt: skip
    constants = {"C": together, "T": tile, "V": _wide(u.shape[2], width)}
    options = {"num_warps": 4, "enable_fp_fusion": True}
    return Launch(prefill_inputs_kernel, grid, arguments, constants, options)


def prefill_outputs_launch(
    z: Tensor,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    skip: Tensor | None,
    y: Tensor,
    prompt_fill: Tensor | None,
    ring: Tensor,
    rows: Tensor,
    starts: Tensor | None,
    ends: Tensor,
    layer: int,
    first_channel: int,
) -> Launch:
    """y and the future fill from z (R, C, n); the other tensors as in prefill_outputs_kernel."""
    n_rows, channels, positions = u.shape
    _, batch, _, slots, lanes = ring.shape
    length = slots if prompt_fill is None else prompt_fill.shape[3]
    tile, together = _PREFILL_POSITIONS, _PREFILL_CHANNELS
    tiles = -(-(positions + length) // tile) + (starts is not None)
    grid = (tiles, -(-channels // together), n_rows)
    arguments = (
        z, u, pre, post, skip, y, prompt_fill, ring, rows, starts, ends, layer, batch, channels,
        positions, length, slots, lanes, first_channel, *_strides(z, u, pre, post, y), 0,
    )  # fmt: skip
    constants = {
        "C": together,
        "T": tile,
        "V": _wide(positions, z.shape[2]) if starts is None else 1,
    }
    options = {"num_warps": 4, "enable_fp_fusion": True}
    return Launch(prefill_outputs_kernel, grid, arguments, constants, options)


def _wide(*sizes: int) -> int:
    """Positions of an access: 4 where all rows can start at a vector, as Triton sees it."""
    return 1 if any(size % 16 for size in sizes) else 4


def _strides(*tensors: Tensor | None) -> tuple[int, ...]:
    """Of rows and channels."""
    return tuple(s for x in tensors for s in ((0, 0) if x is None else x.stride()[:2]))
