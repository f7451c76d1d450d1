"""What of a row's tensors is in use: the rest is zero, or written before it is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from ..plan import Level, Plan
from ..state.slots import CLEAR, COPY, SWAP, Move, Slots, move
from ..state.tensors import StreamState
from .images import kept_image


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
    plan, place, images = state.plan, max(places), state.images
    levels = fired(plan, place, since)
    end = _end(plan, place, levels) if since else slots
    found = [Slots(state.ring, since, end - since)]
    if not since and state.narrow:
        found.append(Slots(state.open_block, 0, state.open_block.shape[3]))
    if rollback:  # else it is of a token under way
        found.append(Slots(state.undo, 0, state.undo.shape[3]))
    for level in levels:
        rows = min(place // level.block, level.kept) * level.transform
        if rows and not state.layout.is_direct(level):
            found.append(Slots(state.kept, level.kept_offset, rows))
    if len(places) > 1:
        found += [Slots(images, 0, images.shape[3])]
    elif levels and images.numel():
        base = plan.base
        for end in range(max(place - rollback, base) // base * base, place + 1, base):
            level = next(x for x in reversed(plan.levels) if end % x.block == 0)
            found += kept_image(state, level, end)
    return found


def of_prompts(state: StreamState) -> list[Slots]:
    """What every row has besides, whatever its place."""
    found = []
    if state.prompt_fill is not None:
        found.append(Slots(state.prompt_fill, 0, state.length))
    if state.work.numel():
        found.append(Slots(state.work[None], 0, state.work.shape[2]))
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
        here, there = (parts(x, {place}, used, rollback) + of_prompts(x) for x in (state, other))
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
    narrow = state.narrow
    now = list(range(len(rows)))  # which old row each is
    pending: list[Move] = []  # of rows with the same parts
    same: tuple[tuple[int, ...], int, int] = (), 0, 0

    def flush() -> None:
        involved, used, since = same
        here = parts(state, involved, used, rollback, since) + of_prompts(state)
        move(here, here, pending)
        pending.clear()

    for how, source, target in steps_to(rows):
        old, other = now[source], now[target]
        place, there = places[old], places[other]
        # of rows at one place, but not where their blocks may be open
        since = common(old, other) if place == there and not narrow else 0
        used, left = (0, 0) if since else (slots(old), slots(other))
        involved = (place, there) if how == SWAP and place != there else (place,)
        here = involved, max(used, left) if how == SWAP else used, since
        if here != same:
            if pending:
                flush()
            same = here
        pending.append((how, source, target))
        now[target] = old
        if how == SWAP:
            now[source] = other
        elif used < left:
            flush()
            rest = [Slots(state.ring, used, left - used)]
            move(rest, rest, [(CLEAR, target, target)])
    if pending:
        flush()
    if not alike:
        index = list(rows)
        for tensor in (state.positions, state.filled):
            tensor.copy_(tensor[index])
        state.token_at.fill_(-1)  # a row gets to a position that its newest token may be at


def steps_to(rows: Sequence[int]) -> Iterator[Move]:
    """Moves after which each row ``b`` is what row ``rows[b]`` was, and only rows that change."""
    left = {b: old for b, old in enumerate(rows) if b != old}
    while left:
        needed = set(left.values())
        free = [b for b in left if b not in needed]
        for target in free:
            yield COPY, left.pop(target), target
        if not free:  # all that is left are circles
            target, source = next(iter(left.items()))
            yield SWAP, source, target
            del left[target]
            left = {b: source if old == target else old for b, old in left.items()}
            if left[source] == source:
                del left[source]
