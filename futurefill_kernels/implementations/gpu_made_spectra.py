"""Future fill on a GPU of a level that makes filter spectra when it fires.

Some channels of a layer at a time: the spectra of a product are made in the order of a fill of the
implementation's own, which then runs on copies of the rows' blocks, as a stream of one firing.
Products of older blocks are fills of these blocks, so that no input spectra are kept. Above the
longest such fills torch.fft does all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ..level import Level
from ..plan import Plan
from ..state.layout import Layout
from ..state.spectra import tree_order
from ..state.tensors import StreamState, level_table
from .fft_block import fill_by
from .gpu_firing import Firing, inputs_at
from .gpu_passes import at_once


class Passes(Protocol):
    """Fills of an implementation; methods as of `mixed.GpuFills`."""

    def arrange_level(self, spectra: Tensor, level: Level, h: Tensor, layout: Layout) -> None:
        """Bring ``tiled_spectra`` into the order that the fills read."""
        ...

    def fill(self, state: StreamState, level: Level, rows: Tensor | None) -> None:
        """One level's future fill of all layers."""
        ...


def window(taps: Tensor, level: Level, k: int) -> Tensor:
    """(G, 2n) float32, the taps of ``H_k`` as ``state.spectra.packed_taps``. taps: (G, L)."""
    block, n = level.block, level.transform
    own = taps[:, (k - 1) * block : (k + 1) * block].float()
    return torch.nn.functional.pad(own, (n - block, n + block - own.shape[1]))


def made_spectra(taps: Tensor, level: Level, k: int) -> Tensor:
    """``H_k`` (n, 2, G) float32 of a level, as ``filter_spectra``. taps: (G, L)."""
    block, n = level.block, level.transform
    own = taps[:, (k - 1) * block : (k + 1) * block]
    z = torch.zeros(len(taps), n, dtype=torch.complex64, device=taps.device)
    halves = torch.view_as_real(z)
    first, second = own[:, :block], own[:, block:]
    halves[:, n - block : n - block + first.shape[1], 0] = first
    halves[:, : second.shape[1], 1] = second
    spectra = torch.view_as_real(torch.fft.ifft(z.mul_(_twist(n, taps.device))))
    return spectra.permute(1, 2, 0)[_tree_order(n, taps.device)]


@lru_cache(maxsize=32)
def _tree_order(n: int, device: torch.device) -> Tensor:
    return tree_order(n).to(device)


@lru_cache(maxsize=32)
def _twist(n: int, device: torch.device) -> Tensor:
    """Of the angles ``pi k / 2n``."""
    angles = torch.arange(n, dtype=torch.float64, device="cpu") * (torch.pi / 2 / n)
    return torch.complex(torch.cos(angles).float(), torch.sin(angles).float()).to(device)


def made_fill(state: StreamState, level: Level, rows: Tensor | None, passes: Passes | None) -> None:
    """Add one level's fill; rows as of `Implementation`. passes: what fills one block, None where
    torch.fft does.

    A layer and at most 256 MiB of spectra at a time, or those of 32 channels.
    """
    firing = Firing.of(level, state.length, state.positions, rows)
    if passes is None:
        _fill_by_fft(state, level, firing)
        return
    lanes = state.layout.lanes
    _, width = at_once(level.transform, len(firing.rows), 1, lanes)
    index = torch.arange(len(firing.rows), device=state.ring.device)
    products = [
        (firing.source(k), index.where(firing.own >= k, -1)) for k in range(1, level.n_spectra + 1)
    ]
    for layer in range(len(state.ring)):
        for channel in range(0, lanes, width):
            here = slice(channel, channel + width)
            _fill_by_passes(state, firing, products, layer, here, passes)


def _fill_by_passes(
    state: StreamState,
    firing: Firing,
    products: Sequence[tuple[Tensor, Tensor]],
    layer: int,
    channels: slice,
    passes: Passes,
) -> None:
    """Of one layer and some channels. products: where the k-th newest blocks lie, and which rows
    have one.
    """
    level = firing.level
    block, n_rows, width = level.block, len(firing.rows), channels.stop - channels.start
    layout = Layout.padded(width, width, 2 * block)
    plan = Plan(2 * block, (block,))
    (alone,) = plan.levels
    ring, opened = state.ring[layer : layer + 1], state.open_block[layer : layer + 1]
    blocks = torch.empty(1, n_rows, 1, 2 * block, width, dtype=torch.float32, device=ring.device)
    blocks[:, :, :, block:] = 0
    spectra = blocks.new_empty(1, 1, alone.transform, 2, width)
    stream = dataclasses.replace(
        state,
        plan=plan,
        layout=layout,
        ring=blocks,
        open_block=blocks[..., :0, :].contiguous(),
        kept=blocks.new_empty(1, n_rows, 1, 0, 2, width),
        positions=torch.full((n_rows,), block, dtype=torch.int64, device=ring.device),
        prepared=dataclasses.replace(state.prepared, spectra=spectra),
        levels=level_table(plan.levels, layout),
    )
    taps, used = _taps(state, layer, channels)
    for k, (source, rows) in enumerate(products, start=1):
        blocks[:, :, 0, :block] = inputs_at(source, ring, channels)
        made = made_spectra(taps, level, k)
        spectra[0, 0] = made if made.shape[2] == width else made[:, :, used]
        passes.arrange_level(spectra[0], alone, taps, layout)
        passes.fill(stream, alone, rows)
    firing.add(ring, opened, channels, blocks[:, :, 0, block:])


def _taps(state: StreamState, layer: int, channels: slice) -> tuple[Tensor, Tensor]:
    """Taps (G, L) of some channels, and the row of each channel; channels behind the last one
    repeat its filter.
    """
    used = torch.arange(channels.start, channels.stop, device=state.ring.device)
    used = (used // state.channels_per_filter).clamp(max=state.filters.shape[1] - 1)
    first = min(channels.start // state.channels_per_filter, state.filters.shape[1] - 1)
    last = (channels.stop - 1) // state.channels_per_filter
    return state.filters[layer, first : last + 1, : state.plan.filter_length], used - first


def _fill_by_fft(state: StreamState, level: Level, firing: Firing) -> None:
    ring, n = state.ring, level.transform

    def multiply(z: Tensor, here: slice, channels: slice) -> None:
        newest, total = z, torch.zeros_like(z) if level.n_spectra > 1 else z
        for k in range(1, level.n_spectra + 1):
            if k > 1:
                older = inputs_at(firing.source(k), ring[here], channels)
                older = older.where((firing.own >= k)[:, None, None], 0)
                newest = torch.fft.rfft(older.mT, 2 * n)
            for i, layer in enumerate(range(*here.indices(len(ring)))):
                taps, used = _taps(state, layer, channels)
                h = torch.fft.rfft(window(taps, level, k), norm="forward")[used]
                if total is z:
                    z[i].mul_(h)
                else:
                    total[i].addcmul_(newest[i], h)
        if total is not z:
            z.copy_(total)

    fill_by(state, level, firing, 0, state.layout.lanes, multiply)
