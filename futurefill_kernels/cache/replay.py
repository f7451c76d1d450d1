"""What a stream derives from its inputs, built again at any position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..implementations.base import Implementation
from ..level import Level
from ..state.open_block import block_start, open_at, put_back_inputs, store_inputs
from ..state.tensors import StreamState


def move_rows(
    state: StreamState,
    implementation: Implementation,
    targets: Mapping[int, int],
    base: Tensor | None,
) -> None:
    """Rows to new positions. targets: row -> position; rows that share one are replayed together.

    Positions before the target hold inputs. base: (layers, B, tiles, N, lanes), as in `replay`.
    """
    groups: dict[int, list[int]] = {}
    for row, position in targets.items():
        groups.setdefault(position, []).append(row)
    for position, rows in groups.items():
        replay(state, implementation, rows, position, base)


def move_back(
    state: StreamState,
    implementation: Implementation,
    ends: Mapping[int, tuple[int, int]],
    base: Tensor | None,
) -> None:
    """Rows from places where nothing is due to others, by their inputs. ends: row -> both places.

    base: as in `replay`. One that fails can be repeated: it begins as this one did.
    """
    if state.narrow:
        for row, (here, _) in ends.items():
            store_inputs(state, row, here)
    try:
        move_rows(state, implementation, {row: n for row, (_, n) in ends.items()}, base)
    except BaseException:
        for row, (here, _) in ends.items():
            state.positions[row] = state.filled[row] = here
            if state.narrow:
                put_back_inputs(state, row, here)
        raise


def replay(
    state: StreamState,
    implementation: Implementation,
    rows: Sequence[int],
    position: int,
    base: Tensor | None,
) -> None:
    """Rebuild everything derived at ``position`` from the stored inputs.

    base: (layers, B, tiles, N, lanes), what the prompt adds to each position; None: nothing.

    Fires again, largest block first, what filled the blocks that ``position`` lies in, so pending
    outputs come out bit for bit as a stream of single steps leaves them.
    """
    ring, length = state.ring, state.plan.slots
    index = torch.tensor(rows, dtype=torch.int64, device=ring.device)
    start = block_start(state.plan, position)
    if position < length:
        ring[:, index, :, position:length] = (
            0 if base is None else base[:, index, :, position:].to(ring.dtype)
        )
        inputs = ring[:, index, :, :position]
        # of the fills only the last one finds the block open, as it was then
        closed = state.without_open_block() if state.narrow else state
        if state.narrow and not start:
            open_at(state, index, 0, None)
        try:
            for level in reversed(state.plan.levels):
                for n, steps in firings_to_replay(level, position, length):
                    boundary = n * level.block
                    state.positions[index] = boundary
                    if steps is None and boundary == start:
                        if state.narrow:
                            open_at(state, index, start, None)
                        implementation.fill(state, level, index)
                    elif steps is None:
                        implementation.fill(closed, level, index)
                    else:
                        implementation.fill_share(state, level, index, 0, steps)
                    first = boundary + level.late
                    stop = min(first + level.block, position)
                    if stop > first:
                        ring[:, index, :, first:stop] = inputs[..., first:stop, :]
        except BaseException:  # a fill has added to some of them
            ring[:, index, :, :position] = inputs
            raise
    if state.narrow:
        inputs = ring[:, index, :, start:position]
        state.open_block[:, index, :, : position - start] = inputs.to(state.dtype)
    state.positions[index] = state.filled[index] = position
    state.token_at[:, index] = -1


def firings_to_replay(level: Level, position: int, length: int) -> Iterator[tuple[int, int | None]]:
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
