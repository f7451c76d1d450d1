"""Future fill on a GPU of a level that makes filter spectra when it fires: all of it by torch.

It fires a few times in a whole generation, so nothing is gained by kernels of its own. Kept input
spectra are in the order of the FFT.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..level import Level
from ..state.tensors import StreamState
from .gpu_fill_by_fft import fill_by_fft, twist


def made_spectra(taps: Tensor, level: Level, k: int) -> Tensor:
    """``H_k`` (n, G) complex64 of a level over n, in the order of the FFT. taps: (G, L)."""
    block, n = level.block, level.transform
    window = taps[:, (k - 1) * block : (k + 1) * block].float()
    packed = torch.nn.functional.pad(window, (n - block, n + block - window.shape[1]))
    cos, sin = twist(n, taps.device)
    z = torch.complex(packed[:, :n].T, packed[:, n:].T) * torch.complex(cos, sin)
    return torch.fft.ifft(z, dim=0)


def made_fill(state: StreamState, level: Level, rows: Tensor | None, first: int, last: int) -> None:
    """Add one level's fill of channels first .. last-1 to the slots; rows as of `Implementation`.

    The spectra of a part of the channels are made, used for all rows and forgotten: their workspace
    is that of the transforms of one row.
    """
    batch = state.ring.shape[1]
    index = torch.arange(batch, device=state.ring.device) if rows is None else rows
    blocks = state.positions[index] // level.block
    own = blocks - blocks // level.radix * level.radix
    held = state.kept[:, :, 0, level.kept_offset :][:, :, : level.kept * level.transform]
    kept = held.unflatten(2, (level.kept, level.transform)) if level.kept else None
    per_filter = state.channels // state.filters.shape[1]
    length = state.plan.filter_length

    def products(values: Tensor, firing: Tensor, layer: int, first_channel: int) -> None:
        here = slice(first_channel, first_channel + values.shape[2])
        used = torch.arange(here.start, here.stop, device=index.device) // per_filter
        # channels behind the last one repeat its filter
        used = used.clamp(max=state.filters.shape[1] - 1) - here.start // per_filter
        taps = state.filters[layer, here.start // per_filter :, :length]
        taps = taps[: -(-values.shape[2] // per_filter) + 1]
        x = torch.view_as_complex(values)  # (R, n, width)
        total = x * made_spectra(taps, level, 1)[:, used]
        if kept is not None:
            for k in range(2, level.n_spectra + 1):
                old = kept[layer, index, (blocks - k) % level.kept, :, :, here]  # (R, n, 2, width)
                old = torch.complex(old[:, :, 0], old[:, :, 1])
                old = old.where((own >= k)[:, None, None], 0)
                total += old * made_spectra(taps, level, k)[:, used]
            slot = (blocks - 1) % level.kept
            before = kept[layer, index, slot, :, :, here]
            newest = torch.stack([x.real, x.imag], dim=2)
            fires = (firing >= 0)[:, None, None, None]
            kept[layer, index, slot, :, :, here] = newest.where(fires, before)
        x.copy_(total)

    fill_by_fft(
        state.ring, state.open_block, state.positions, rows, level, first, last, products
    )  # fmt: skip
