"""Rows of an endless stream at the end of their window go on at its beginning (`Window`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from ..state.tensors import StreamState
from .fills import Fills
from .history import History
from .positions import Positions


def copy_end(state: StreamState, rows: Iterable[int]) -> None:
    """Slots around the window's end to its beginning, whose slots none of them is; no fill is due
    in the rows.
    """
    first, end, _ = state.plan.window
    _, filled = _pending(state)
    for row in rows:
        for slots in _by_place(state):
            here = slots[:, row, :, end - first : end + filled]
            slots[:, row, :, : first + filled].copy_(here)


def stand_at_first(state: StreamState, rows: Iterable[int]) -> None:
    """After ``copy_end``: nothing is pending that has been copied, and the rows stand there."""
    first, filled = _pending(state)
    for row in rows:
        for slots in _by_place(state):
            slots[:, row, :, first + filled :] = 0
        state.positions[row] = state.filled[row] = first
        state.token_at[:, row] = -1


def _by_place(state: StreamState) -> list[Tensor]:
    """What has slots of the whole window. An open block of ``T_0`` is the same before and after a
    leap; without levels it never closes.
    """
    return [state.ring, *([] if state.plan.levels else [state.open_block])]


def _pending(state: StreamState) -> tuple[int, int]:
    """The window's first position, and how many pending outputs a firing leaves there."""
    window = state.plan.window
    return window.first, (window.slots - window.end) // 2


class Leaps:
    """When rows of one state leap. An interrupt between a copy and what follows it loses nothing:
    the next ``finish`` does the rest.
    """

    def __init__(
        self, state: StreamState, positions: Positions, fills: Fills, history: History
    ) -> None:
        self._state, self._positions = state, positions
        self._fills, self._history = fills, history
        self._copied: set[int] = set()

    def make_room(self, rows: Sequence[int]) -> None:
        """Of an endless stream, each of the rows can take a position; -1 is padding."""
        if not self._positions.endless:
            return
        self.finish()
        at, end = self._positions.rows, self._positions.end
        full = [row for row in rows if row >= 0 and at[row] == end]
        if full:
            self._fills.join()
            self._history.drop()
            copy_end(self._state, full)
            self._copied.update(full)
            self.finish()

    def finish(self) -> None:
        """Nothing is half done."""
        if self._copied:
            stand_at_first(self._state, self._copied)
            at, first = self._positions.taken, self._state.plan.window.first
            self._positions.stand(
                dict.fromkeys(self._copied, first), {row: at[row] for row in self._copied}
            )
            self._copied.clear()
