"""``impl="cpu"``: the C++ engine (csrc/cpu), one call per layer and token."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _extension
from .plan import Level, Plan
from .spectra import filter_spectra
from .state import Layout, Step, StreamState, tile_filters

name = "cpu"
fuses_fill = True


def unavailable(device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
    """Why the engine cannot run: not built, or not a CPU."""
    reasons = []
    if device.type != "cpu":
        reasons.append(f"runs on the CPU, not on {device}")
    missing = _extension.cpu_unavailable_reason()
    if missing:
        reasons.append(missing)
    return reasons


def make_layout(channels: int, groups: int, dtype: torch.dtype, plan: Plan) -> Layout:
    """Tiles as wide as a vector register.

    A filter row shared by whole tiles is stored once and broadcast; one shared by fewer channels
    is stored for each of them.
    """
    lanes = _extension.cpu_lanes(dtype)
    shared = channels // groups
    if groups < channels and shared % lanes == 0:
        return Layout(channels, groups, lanes, 1, plan.length)
    return Layout(channels, channels, lanes, lanes, plan.length)


def make_spectra(h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> Tensor:
    """(layout.groups, L) taps -> (filter tiles, rows, 2, filter_lanes)."""
    return tile_filters(filter_spectra(h, plan, dtype), layout)


def make_step(state: StreamState) -> Step:
    """One token of one layer, and after the last layer every fill that is due."""
    op = torch.ops.futurefill_kernels.step.default
    ring, taps, skip, positions = state.ring, state.taps, state.skip, state.positions
    fills = (state.kept, state.spectra, state.levels, state.plan.length)

    def step(
        u: Tensor,
        pre: Tensor | None,
        post: Tensor | None,
        y: Tensor,
        rows: Tensor | None,
        layer: int,
        advance: bool,
    ) -> None:
        op(u, pre, post, y, ring, taps, skip, positions, rows, layer, advance, *fills)

    return step


def fill(state: StreamState, level: Level, rows: Tensor | None) -> None:
    """One level's future fill of all layers."""
    kept_offset, spectra_offset = state.plan.spectra_offsets()[level.index]
    torch.ops.futurefill_kernels.future_fill(
        state.ring,
        state.kept,
        state.spectra,
        state.positions,
        rows,
        state.plan.length,
        level.block,
        level.radix,
        level.n_spectra,
        kept_offset,
        spectra_offset,
    )
