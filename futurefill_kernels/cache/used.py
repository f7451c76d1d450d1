"""What of a row's tensors is in use: the rest is zero, or written before it is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

from ..level import Level
from ..plan import Plan
from ..state.slots import CLEAR, COPY, SWAP, Move, Slots, move
from ..state.tensors import StreamState
from .images import kept_image


@lru_cache(maxsize=16)
def used_slots(plan: Plan, place: int) -> int:
    """Slots of the ring of a row without a prompt that may not be zero. place: its position's."""
    return _end(plan, place, fired(plan, place))


def fired(plan: Plan, place: int, since: int = 0) -> list[Level]:
    """Levels with a firing at one of the positions since .. place: the first ones, since the ends
    of a block are ends of all smaller ones.
    """
    found = []
    for level in plan.levels:
        if place - place % level.block < (since or level.block):
            break
        found.append(level)
    return found


def _end(plan: Plan, place: int, levels: Sequence[Level]) -> int:
    """The slot before which the newest firings of levels end, at least the place."""
    ends = [place - place % x.block + x.late + x.block for x in levels]
    return min(max(place, *ends), plan.slots) if ends else place


def parts(
    state: StreamState, places: Collection[int], slots: int, rollback: int, since: int = 0
) -> list[Slots]:
    """All that rows at any of the places have, but for their positions.

    slots: those of their rings that are used. since: of rows at one place, only what may have
    changed from there on; the slots are known then.
    """
    plan, arrays, place = state.plan, state.arrays, max(places)
    levels = fired(plan, place, since)
    end = _end(plan, place, levels) if since else slots
    found = [Slots(arrays.ring, since, end - since)]
    if not since and arrays.open_block.size:
        found.append(arrays.open_block.whole)
    if rollback:  # else it is of a token under way
        found.append(arrays.undo.whole)
    for level in levels:
        rows = min(place // level.block, level.kept) * level.transform
        if rows and not state.layout.is_direct(level):
            found.append(Slots(arrays.kept, level.kept_offset, rows))
    if len(places) > 1:
        found.append(arrays.images.whole)
    elif levels and arrays.images.size:
        base = plan.base
        for end in range((max(place - rollback, 0) // base + 1) * base, place + 1, base):
            level = next(x for x in reversed(plan.levels) if end % x.block == 0)
            found += kept_image(state, level, end)
    return found


def clone(
    state: StreamState, places: Sequence[int], slots: Sequence[int], rollback: int
) -> StreamState:
    """A copy that shares only what never changes, filters and skip, and copies what is used.

    places, slots: of every row, as in ``parts``.
    """
    other = state.with_own_tensors(max(slots))
    alike: dict[tuple[int, int], list[Move]] = {}
    for row, at in enumerate(zip(places, slots, strict=True)):
        alike.setdefault(at, []).append((COPY, row, row))
    for (place, used), moves in alike.items():
        here, there = (parts(x, {place}, used, rollback) + x.beside_slots for x in (state, other))
        move(here, there, moves)
    return other


def reorder(
    state: StreamState,
    rows: Sequence[int],
    places: Sequence[int],
    alike: bool,
    rollback: int,
    slots: Callable[[int], int],
    common: Callable[[int, int], int],
) -> None:
    """Row ``b`` becomes what row ``rows[b]`` was; what is used of rows that change is copied.

    rows: (B,). places: (B,), of the old rows. alike: they are at one place, and fills have run to
    one position of them. slots(row): as in ``parts``. common(row, other): up to where two rows at
    one place are the same.
    """
    now = list(range(len(rows)))  # which old row each is
    # of rows at one place, but not where their blocks may be open
    narrow = state.arrays.open_block.size > 0
    group, moves = (0, 0, 0, 0), list[Move]()  # with the same parts
    books = [] if alike else state.books
    for step in steps_to(rows):
        how, source, target = step
        old, other = rows[target], now[target]
        place, there = places[old], places[other]
        now[target] = old
        since = 0 if narrow or place != there else common(old, other)
        used, left = (0, 0) if since else (slots(old), slots(other))
        here = place, place, used, since
        if how == SWAP:
            now[source] = other
            here = place, there, max(used, left), since
        if here != group and moves:
            _move(state, group, books, rollback, moves)
            moves = []
        group = here
        moves.append(step)
        if how == COPY and used < left:  # no row of the group has so many slots
            rest = [Slots(state.arrays.ring, used, left - used)]
            move(rest, rest, [(CLEAR, target, target)])
    if moves:
        _move(state, group, books, rollback, moves)


def _move(
    state: StreamState,
    group: tuple[int, int, int, int],
    books: Sequence[Slots],
    rollback: int,
    moves: Sequence[Move],
) -> None:
    """Moves of rows that have the same parts. group: the places of both, slots, since."""
    place, there, slots, since = group
    here = [*books, *parts(state, {place, there}, slots, rollback, since), *state.beside_slots]
    move(here, here, moves)


def steps_to(rows: Sequence[int]) -> list[Move]:
    """Moves after which each row ``b`` is what row ``rows[b]`` was, and only rows that change:
    copies to rows that no other needs any more, then exchanges along circles.
    """
    left = {b: old for b, old in enumerate(rows) if b != old}
    needed = [0] * len(rows)
    for old in left.values():
        needed[old] += 1
    found: list[Move] = []
    free = [b for b in reversed(left) if not needed[b]]
    while free:
        target = free.pop()
        source = left.pop(target)
        found.append((COPY, source, target))
        needed[source] -= 1
        if not needed[source] and source in left:
            free.append(source)
    while left:
        start = target = next(iter(left))
        source = left.pop(start)
        while source != start:
            found.append((SWAP, source, target))
            target, source = source, left.pop(source)
    return found
