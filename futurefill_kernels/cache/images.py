"""Before-images: what firings changed as it was before them, and rows taken back by them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..level import Level
from ..state.layout import CHANNEL_UNIT
from ..state.open_block import block_start
from ..state.slots import COPY, Slots, move, move_by_torch
from ..state.tensors import StreamState, image_rows


def newest_slot(state: StreamState, level: Level, boundary: int) -> int:
    """Slot of kept spectra where a plain level's firing at a boundary stores its newest block.

    Blocks are counted in their group, on GPUs in the stream.
    """
    block = boundary // level.block - 1
    return (block if state.layout.history else block % level.radix) % level.kept


def changed(state: StreamState, level: Level, boundary: int) -> list[Slots]:
    """All that a firing changes in the state, or a share of one with slack in some lanes.

    boundary: position at the end of the blocks that it reads.
    """
    start = boundary + level.late
    stop = min(start + level.block, state.length)
    found = [Slots(state.arrays.ring, start, stop - start)]
    if level.kept and not state.layout.is_direct(level):
        first, count = 0, level.kept
        if level.plain:
            first, count = newest_slot(state, level, boundary), 1
        first = level.kept_offset + first * level.transform
        found.append(Slots(state.arrays.kept, first, count * level.transform))
    return found


def lanes_of_share(state: StreamState, level: Level, share: int) -> slice:
    """The lanes that a share of a firing changes."""
    if level.steps and state.layout.lanes % CHANNEL_UNIT == 0:
        return slice(*state.layout.channels_of_share(level, share, share + 1))
    return slice(None)


def kept_image(state: StreamState, level: Level, boundary: int) -> list[Slots]:
    """Where the state keeps what ``changed`` of a plain level finds, in as many bytes; empty where
    it keeps none.
    """
    offset, count = state.images_of_levels[level.index]
    if not count:
        return []
    rows = image_rows(level, state.layout)
    start = offset + boundary // level.block % count * rows
    found = [Slots(state.arrays.images, start, min(level.block, state.length - boundary))]
    if rows > level.block:
        found.append(Slots(state.arrays.images, start + level.block, rows - level.block))
    return found


def views(
    found: Sequence[Slots], rows: Sequence[int] | None, lanes: slice = slice(None)
) -> list[Tensor]:
    """Some rows' slots, None for all rows at once."""
    places = (slice(None),) if rows is None else rows
    return [slots.of(row)[..., lanes] for row in places for slots in found]


def copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Every source into its target, which holds as many values."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source.reshape(target.shape))


def roll_back(
    state: StreamState, rows: Sequence[int] | None, here: int, target: int, fired: bool
) -> None:
    """Rows that are all at ``here`` back to ``target``, at most ``rollback`` positions.

    rows: None for all. fired: whether what is due at ``here`` has run. Inputs become the pending
    outputs that they overwrote, and of firings since then, newest first, the before-images come
    back.
    """
    levels, base = state.plan.levels, state.plan.base
    was, now = [], []
    # the first firing to take back; without levels none has written over an input
    boundary = (target // base + 1) * base if levels else here
    arrays, t = state.arrays, target
    slots, places, first = arrays.undo.size, arrays.ring, 0
    if state.narrow:
        places, first = arrays.open_block, block_start(state.plan, target)
        if first != block_start(state.plan, here if fired else max(here - 1, 0)):  # it is closed
            was.append(Slots(arrays.ring, first, target - first))
            now.append(Slots(places, 0, target - first))
    while t < min(here, boundary):
        stop = min(here, boundary, t + slots - t % slots)
        was.append(Slots(arrays.undo, t % slots, stop - t))
        now.append(Slots(places, t - first, stop - t))
        t = stop
    last = min(here + fired, state.length)
    for end in reversed(range(boundary, last, base)) if levels else ():
        level = next(x for x in reversed(levels) if end % x.block == 0)
        was += kept_image(state, level, end)
        now += changed(state, level, end)
    everyone = range(state.positions.shape[0])
    # images are in the dtype of arithmetic, and the move of bytes rounds nothing
    run = move_by_torch if state.narrow else move
    run(was, now, [(COPY, row, row) for row in (everyone if rows is None else rows)])
    if rows is None:
        state.positions.fill_(target)
        state.filled.fill_(target)
        state.token_at.fill_(-1)
    else:
        index = torch.tensor(rows, dtype=torch.int64, device=state.ring.device)
        state.positions[index] = state.filled[index] = target
        state.token_at[:, index] = -1
