"""Fills through three calls of torch.fft on data whose time is contiguous: a form of fills that
every level can have, for where nothing is faster, or nothing else can.

Spectra are those of real transforms of 2n points, n of them, the last one's real part, the value at
half the sampling rate, in place of the first one's imaginary part, which is zero. A channel's lie
side by side: of a level (layers, K, F, n), kept ones (layers, B, slots, C, n).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..level import Level
from ..plan import Plan
from ..planning.capabilities import FFT
from ..state.layout import Layout
from ..state.spectra import packed_taps
from ..state.tensors import StreamState
from .fft_block import fill_by
from .gpu_firing import Firing
from .gpu_made_spectra import made_fill

capabilities = FFT

#: Taps that are transformed at once when a stream is made.
_TAPS = 1 << 22


def cannot_run(device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
    """Why it cannot run: dtype."""
    return ["computes in float32, not in float64"] if dtype == torch.float64 else []


def arrange_level(spectra: Tensor, level: Level, h: Tensor, layout: Layout) -> None:
    """Write the spectra of one level. h: (F or fewer, L) taps that the plan reads."""
    filters = spectra.shape[3]
    own = spectra[0, level.spectra_offset :][: level.n_spectra * level.transform]
    own = own.view(level.n_spectra, filters, level.transform, 2)
    step = max(_TAPS // (2 * level.n_spectra * level.transform), 1)
    own[:, len(h) :] = 0
    for g in range(0, len(h), step):
        taps = packed_taps(h[g : g + step].detach().to(spectra.device), level)  # (G, K, 2n)
        z = torch.view_as_real(torch.fft.rfft(taps, norm="forward"))
        z[..., 0, 1] = z[..., -1, 0]
        own[:, g : g + len(z)] = z[..., :-1, :].transpose(0, 1)


def fill(state: StreamState, level: Level, rows: Tensor | None) -> None:
    """One level's future fill of all layers and rows."""
    if level.made:
        made_fill(state, level, rows, None)
    else:
        _fill_channels(state, level, rows, 0, state.layout.lanes)


def fill_share(state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int) -> None:
    """Of one firing of a level with slack, the shares of steps ``begin .. end-1``."""
    first, last = state.layout.channels_of_share(level, begin, end)
    if first < last:
        _fill_channels(state, level, rows, first, last)


def _fill_channels(
    state: StreamState, level: Level, rows: Tensor | None, first: int, last: int
) -> None:
    n, kept_slots, per_filter = level.transform, level.kept, state.channels_per_filter
    firing = Firing.of(level, state.length, state.positions, rows)
    layers, batch, lanes = len(state.ring), state.ring.shape[1], state.layout.lanes
    held = state.spectra[:, 0, level.spectra_offset :][:, : level.n_spectra * n]
    held = held.view(layers, level.n_spectra, -1, n, 2)
    kept = state.kept[:, :, 0, level.kept_offset :][:, :, : kept_slots * n]
    kept = kept.view(layers, batch, kept_slots, lanes, n, 2)

    def multiply(z: Tensor, here: slice, channels: slice) -> None:
        pairs = torch.view_as_real(z)
        pairs[..., 0, 1] = pairs[..., -1, 0]
        newest, h = z[..., :-1], _filters(held, 1, here, channels, per_filter)
        if kept_slots:
            own = kept[here, :, :, channels]
            older = _older_products(firing, held, own, here, channels, per_filter)
            _keep(firing, own, pairs[..., :-1, :])
        edges = _edges(newest, h)
        newest.mul_(h)
        pairs[..., 0, :] = edges
        if kept_slots:
            newest.add_(older)
        pairs[..., -1, 0] = pairs[..., 0, 1]
        pairs[..., -1, 1] = pairs[..., 0, 1] = 0

    fill_by(state, level, firing, first, last, multiply)


def _filters(
    held: Tensor, k: int, here: slice, channels: slice, channels_per_filter: int
) -> Tensor:
    """``H_k`` (layers, 1, width, n) complex64 of some channels."""
    if channels_per_filter == 1:
        own = held[here, k - 1, channels]
    else:
        used = torch.arange(channels.start, channels.stop, device=held.device)
        own = held[here, k - 1, used // channels_per_filter]
    return torch.view_as_complex(own.float())[:, None]


def _older_products(
    firing: Firing,
    held: Tensor,
    kept: Tensor,
    here: slice,
    channels: slice,
    channels_per_filter: int,
) -> Tensor:
    """The sum over all blocks of the group but the newest, as far as the filters reach. kept:
    (layers, B, slots, width, n, 2), of these layers and channels.
    """
    slots = kept.shape[2]

    def product(k: int) -> Tensor:
        old = kept[:, firing.rows, (firing.blocks - k) % slots]
        # what no firing of the group has left may be anything
        old = old.where((firing.own >= k)[:, None, None, None], 0)
        x, h = torch.view_as_complex(old), _filters(held, k, here, channels, channels_per_filter)
        found = x * h
        torch.view_as_real(found)[..., 0, :] = _edges(x, h)
        return found

    total = product(2)
    for k in range(3, slots + 2):
        total.add_(product(k))
    return total


def _keep(firing: Firing, kept: Tensor, newest: Tensor) -> None:
    """Store spectra (layers, R, width, n, 2) of rows that fire."""
    fires = firing.own > 0
    # padding names a row again: it stores what one that fires does
    same = torch.arange(len(fires), device=fires.device).where(fires, fires.int().argmax())
    rows, slots = firing.rows[same], (firing.blocks[same] - 1) % kept.shape[2]
    stored = fires[same][:, None, None, None]
    kept[:, rows, slots] = newest[:, same].where(stored, kept[:, rows, slots])


def _edges(a: Tensor, b: Tensor) -> Tensor:
    """Products of the two real values in place of the first of a and b (..., n), (..., 2)."""
    return torch.view_as_real(a)[..., 0, :] * torch.view_as_real(b)[..., 0, :]
