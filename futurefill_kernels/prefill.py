"""Many tokens at once: a prompt before the stream, or a chunk inside it.

These are functions of a StreamState; FutureFillCache checks arguments and keeps the books.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from .dispatch import Implementation, SlicedImplementation
from .functional import fast_conv_range
from .plan import Level
from .state import StreamState, from_tiles, to_tiles


def prompt(
    state: StreamState, h: Tensor, x: Tensor, ends: Tensor, chunk: int, layer: int, rows: list[int]
) -> Tensor:
    """Outputs of a prompt's last ``chunk`` positions; leaves its future fill in the state.

    h: (G, L) taps. x: (R, D, P) gated inputs since the stream's start, right-padded with zeros.
    ends: (R,) int64 on the CPU, prompt lengths ``<= P``. chunk: outputs wanted per row, the last of
    them at ``ends``' maximum. Returns (R, D, P) with outputs before ``P - chunk`` left out:
    (R, D, chunk). One FFT convolution, O(P log P) time; nothing of size P stays.
    """
    length, total = state.plan.length, x.shape[2]
    start = total - chunk
    first = min(start, int(ends.min()))
    result = fast_conv_range(x, h, first, total + length)  # (R, D, total + N - first)
    for r, (row, end) in enumerate(zip(rows, ends.tolist(), strict=True)):
        filled = result[r, :, end - first : end - first + length]
        state.prompt_fill[layer, row] = to_tiles(filled, state.layout)
        state.ring[layer, row, :, :length] = state.prompt_fill[layer, row]
    return result[..., start - first : total - first]


def chunk(
    state: StreamState, h: Tensor, x: Tensor, position: int, layer: int, rows: list[int]
) -> Tensor:
    """Outputs of ``T`` positions inside the stream, from everything that the rows have seen.

    x: (R, D, T) gated inputs of positions ``position .. position + T - 1``. The inputs are stored;
    pending outputs are stale until ``replay``. Returns (R, D, T).
    """
    stop = position + x.shape[2]
    state.ring[layer, rows, :, position:stop] = to_tiles(x, state.layout)
    inputs = from_tiles(state.ring[layer, rows, :, :stop], state.layout)
    filled = from_tiles(state.prompt_fill[layer, rows, :, position:stop], state.layout)
    return filled + fast_conv_range(inputs, h, position, stop)


def replay(
    state: StreamState, implementation: Implementation, rows: Sequence[int], position: int
) -> None:
    """Rebuild everything derived at ``position`` from the stored inputs and the prompt's fill.

    Fires again, largest block first, what filled the blocks that ``position`` lies in, so pending
    outputs come out bit for bit as a stream of single steps leaves them.
    """
    ring, length = state.ring, state.plan.length
    index = torch.tensor(rows, dtype=torch.int64, device=ring.device)
    if position < length:
        ring[:, index, :, position:length] = state.prompt_fill[:, index, :, position:]
        inputs = ring[:, index, :, :position]
        for level in reversed(state.plan.levels):
            for n, steps in _firings_to_replay(level, position, length):
                boundary = n * level.block
                state.positions[index] = boundary
                if steps is None:
                    implementation.fill(state, level, index)
                else:
                    cast(SlicedImplementation, implementation).fill_slices(
                        state, level, index, 0, steps
                    )
                start = boundary + level.late
                stop = min(start + level.block, position)
                if stop > start:
                    ring[:, index, :, start:stop] = inputs[..., start:stop, :]
    state.positions[index] = position


def _firings_to_replay(
    level: Level, position: int, length: int
) -> Iterator[tuple[int, int | None]]:
    """Firings of a level that left something at ``position``: finished blocks, and of one that is
    under way the steps done, else None.
    """
    newest = position // level.block
    if level.plain:
        group = newest // level.radix * level.radix
        for n in range(max(group + 1, newest + 1 - level.n_spectra), newest + 1):
            yield n, None
        return
    # the last two reach beyond `position`, the others leave the spectra that they multiply
    for n in range(max(1, newest - level.n_spectra), newest + 1):
        if n * level.block + level.late < length:
            done = position - n * level.block + 1
            yield n, done if done < level.steps else None
