"""What of a row's tensors is in use: the rest is zero, or written before it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from ..plan import Plan
from ..state.tensors import StreamState
from .images import copy, kept_image


def used_slots(plan: Plan, place: int) -> int:
    """Slots of the ring of a row without a prompt that may not be zero. place: its position's."""
    ends = (place // x.block * x.block + x.late + x.block for x in plan.levels if place >= x.block)
    return min(max(place, *ends, 0), plan.slots)


def parts(
    state: StreamState, row: int | slice, place: int, slots: int, rollback: int
) -> list[Tensor]:
    """Views of all that a row at a place has, but for its positions. row: or all, at one place.

    slots: those of its ring that are used.
    """
    plan, found = state.plan, [state.ring[:, row, ..., :slots, :]]
    if rollback:  # else it is of a token under way
        found.append(state.undo[:, row])
    for level in plan.levels if plan.kept_rows else ():
        rows = min(place // level.block, level.kept) * level.transform
        if rows and not state.layout.is_direct(level):
            first = level.kept_offset
            found.append(state.kept[:, row, ..., first : first + rows, :, :])
    if state.prompt_fill is not None:
        found.append(state.prompt_fill[:, row])
    found += [state.work[row]] if state.work.numel() else []
    if state.images.numel():
        base, each = plan.base, None if isinstance(row, slice) else [row]
        for end in range(max(place - rollback, base) // base * base, place + 1, base):
            level = next(x for x in reversed(plan.levels) if end % x.block == 0)
            found += kept_image(state, level, end, each)
    return found


def clone(
    state: StreamState, places: Sequence[int], slots: Sequence[int], rollback: int
) -> StreamState:
    """A copy that shares only what never changes, filters and skip, and copies what is used.

    places, slots: of every row, as in ``parts``.
    """
    other = state.with_own_tensors()
    same = len(set(places)) == len(set(slots)) == 1
    for row in [slice(None)] if same else range(len(places)):
        at = 0 if isinstance(row, slice) else row
        here = [parts(x, row, places[at], slots[at], rollback) for x in (state, other)]
        copy(*here)
    return other


def reorder(
    state: StreamState,
    rows: Sequence[int],
    places: Sequence[int],
    slots: Sequence[int],
    rollback: int,
) -> None:
    """Row ``b`` becomes what row ``rows[b]`` was; what is used of rows that change is copied.

    rows, places, slots: (B,), those of the old rows.
    """
    if list(rows) == list(range(len(rows))):
        return
    aside: dict[int, list[Tensor]] = {}
    for source, target in copies(rows):
        if target is None:
            found = parts(state, source, places[source], slots[source], rollback)
            aside[source] = [x.clone() for x in found]
            continue
        to = parts(state, target, places[source], slots[source], rollback)
        if source in aside:
            copy(aside[source], to)
        else:
            copy(parts(state, source, places[source], slots[source], rollback), to)
        if slots[source] < slots[target]:
            state.ring[:, target, ..., slots[source] : slots[target], :] = 0
    if len(set(places)) > 1:  # between tokens with nothing due they say all
        for tensor in (state.positions, state.filled):
            tensor.copy_(tensor[list(rows)])
    state.token_at.fill_(-1)


def copies(rows: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """In which order the old row ``rows[b]`` is copied to each row ``b`` that is another.

    Pairs (source, target): no target is a source later on. Target None: the source's row is to be
    written, and what is copied from it afterwards has to be put aside.
    """
    left = {b: old for b, old in enumerate(rows) if b != old}
    aside: set[int] = set()
    while left:
        free = [b for b in left if b in aside or b not in left.values()]
        if not free:
            source = next(iter(left))
            aside.add(source)
            yield source, None
            free = [source]
        for target in free:
            yield left.pop(target), target
