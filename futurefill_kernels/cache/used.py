"""What of a row's tensors is in use: the rest is zero, or written before it is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from ..plan import Level, Plan
from ..state.slots import How, Move, Slots, move
from ..state.tensors import StreamState
from .images import kept_image


def used_slots(plan: Plan, place: int) -> int:
    """Slots of the ring of a row without a prompt that may not be zero. place: its position's."""
    return _end(plan, place, fired(plan, place))


def fired(plan: Plan, place: int, since: int = 0) -> list[Level]:
    """Levels with a firing at one of the positions since .. place."""
    return [x for x in plan.levels if place - place % x.block >= max(since, x.block)]


def _end(plan: Plan, place: int, levels: Sequence[Level]) -> int:
    """The slot before which the newest firings of levels end, at least the place."""
    ends = (place - place % x.block + x.late + x.block for x in levels)
    return min(max(place, *ends, 0), plan.slots)


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
    if state.narrow:
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
        alike.setdefault(at, []).append(Move(How.COPY, row, row))
    for (place, used), moves in alike.items():
        here, there = (parts(x, {place}, used, rollback) + of_prompts(x) for x in (state, other))
        move(here, there, moves)
    return other


def reorder(
    state: StreamState,
    rows: Sequence[int],
    places: Sequence[int],
    filled: Sequence[int],
    rollback: int,
    slots: Callable[[int], int],
    common: Callable[[int, int], int],
) -> None:
    """Row ``b`` becomes what row ``rows[b]`` was; what is used of rows that change is copied.

    rows, places, filled: (B,), those of the old rows. slots(row): as in ``parts``. common(row,
    other): up to where two rows at one place are the same.
    """
    now = list(range(len(rows)))  # which old row each is
    pending: list[Move] = []  # of rows alike
    alike: tuple[set[int], int, int] = set(), 0, 0

    def flush() -> None:
        if pending:
            involved, used, since = alike
            here = parts(state, involved, used, rollback, since) + of_prompts(state)
            move(here, here, pending)
            pending.clear()

    for step in steps_to(rows):
        old, other, used, left = now[step.source], now[step.target], 0, 0
        alike_here = places[old] == places[other] and not state.narrow  # whose blocks may be open
        since = common(old, other) if alike_here else 0
        if not since:
            used, left = slots(old), slots(other)
        swap = step.how is How.SWAP
        involved = {places[old], places[other]} if swap else {places[old]}
        here = involved, max(used, left) if swap else used, since
        if here != alike:
            flush()
            alike = here
        pending.append(step)
        now[step.target] = old
        if swap:
            now[step.source] = other
        elif used < left:
            flush()
            rest = [Slots(state.ring, used, left - used)]
            move(rest, rest, [Move(How.CLEAR, step.target, step.target)])
    flush()
    for tensor, known in ((state.positions, places), (state.filled, filled)):
        if len(set(known)) > 1:
            tensor.copy_(tensor[list(rows)])
    state.token_at.fill_(-1)


def steps_to(rows: Sequence[int]) -> Iterator[Move]:
    """Moves after which each row ``b`` is what row ``rows[b]`` was, and only rows that change."""
    left = {b: old for b, old in enumerate(rows) if b != old}
    while left:
        needed = set(left.values())
        free = [b for b in left if b not in needed]
        for target in free:
            yield Move(How.COPY, left.pop(target), target)
        if not free:  # all that is left are circles
            target, source = next(iter(left.items()))
            yield Move(How.SWAP, source, target)
            del left[target]
            left = {b: source if old == target else old for b, old in left.items()}
            if left[source] == source:
                del left[source]
