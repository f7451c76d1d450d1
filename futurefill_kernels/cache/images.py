"""Before-images: what firings changed as it was before them, and rows taken back by them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..plan import Level
from ..state.layout import CHANNEL_UNIT
from ..state.tensors import StreamState, image_rows


def newest_slot(state: StreamState, level: Level, boundary: int) -> int:
    """Slot of kept spectra where a plain level's firing at a boundary stores its newest block.

    Blocks are counted in their group, on GPUs in the stream.
    """
    block = boundary // level.block - 1
    return (block if state.layout.history else block % level.radix) % level.kept


def changed(
    state: StreamState, level: Level, share: int, boundary: int, rows: Sequence[int] | None
) -> list[Tensor]:
    """Views of all that a firing, or a share of one with slack, changes in the state.

    boundary: position at the end of the blocks that it reads. rows: None for all.
    """
    start, lanes = boundary + level.late, slice(None)
    stop = min(start + level.block, state.length)
    if level.steps and state.layout.lanes % CHANNEL_UNIT == 0:
        lanes = slice(*state.layout.channels_of_share(level, share, share + 1))
    first, last = 0, level.kept
    if level.plain and level.kept:
        first = newest_slot(state, level, boundary)
        last = first + 1
    first, last = (level.kept_offset + slot * level.transform for slot in (first, last))
    found = []
    for row in (None,) if rows is None else rows:
        slots = _slots(state.ring, row, start, stop - start)
        found.append(slots if lanes == slice(None) else slots[..., lanes])
        if last > first and not state.layout.is_direct(level):
            kept = state.kept if row is None else state.kept[:, row]
            kept = kept.narrow(-3, first, last - first)
            found.append(kept if lanes == slice(None) else kept[..., lanes])
    return found


def kept_image(
    state: StreamState, level: Level, boundary: int, rows: Sequence[int] | None
) -> list[Tensor]:
    """Where the state keeps what ``changed`` of a plain level finds; empty where it keeps none."""
    offset, count = state.levels[level.index, -3:-1].tolist()
    if not count:
        return []
    start = offset + boundary // level.block % count * image_rows(level, state.layout)
    outputs = min(level.block, state.length - boundary)
    rows_of_image = image_rows(level, state.layout)
    found = []
    for row in (None,) if rows is None else rows:
        found.append(_slots(state.images, row, start, outputs))
        if rows_of_image > level.block:
            spectrum = _slots(state.images, row, start + level.block, rows_of_image - level.block)
            found.append(spectrum.unflatten(-2, (level.transform, 2)))
    return found


def copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Every source into its target."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def roll_back(state: StreamState, rows: Sequence[int] | None, here: int, target: int) -> None:
    """Rows that are all at ``here`` back to ``target``, at most ``rollback`` positions.

    rows: None for all. What is due at ``here`` has run. Inputs become the pending outputs that they
    overwrote, and of firings since then, newest first, the before-images come back.
    """
    levels, base = state.plan.levels, state.plan.base
    # the first firing to take back; without levels none has written over an input
    boundary = (target // base + 1) * base if levels else here
    slots, t = state.undo.shape[3], target
    while t < min(here, boundary):
        stop = min(here, boundary, t + slots - t % slots)
        for row in (None,) if rows is None else rows:
            pending = _slots(state.undo, row, t % slots, stop - t)
            _slots(state.ring, row, t, stop - t).copy_(pending)
        t = stop
    for end in reversed(range(boundary, min(here + 1, state.length), base)) if levels else ():
        level = next(x for x in reversed(levels) if end % x.block == 0)
        copy(kept_image(state, level, end, rows), changed(state, level, 0, end, rows))
    if rows is None:
        state.positions.fill_(target)
        state.filled.fill_(target)
        state.token_at.fill_(-1)
    for row in rows or ():
        state.positions[row] = target
        state.filled[row] = target
        state.token_at[:, row] = -1


def _slots(x: Tensor, row: int | None, begin: int, count: int) -> Tensor:
    """Some slots of one row, None for all. x: (layers, B, tiles, slots, W)."""
    return (x if row is None else x[:, row]).narrow(-2, begin, count)
