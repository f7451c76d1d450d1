"""The window of an endless stream: constant memory for any number of positions."""

from __future__ import annotations

from typing import NamedTuple

#: A leap costs some microseconds, so there are at least so many positions between two.
SHORTEST_PERIOD = 1024


class Window(NamedTuple):
    """The slots of an endless stream: a window that moves on over it in leaps.

    A row that has come to position ``end`` of it goes on at ``first``, a ``period`` before: the
    slots around ``end`` are copied there. ``period`` is a multiple of the largest block, and of as
    many of them as input spectra are kept; so all that depends on a position is where it was.

    first: what is before it are the inputs that can still be needed. end: the last slots after it
        are those that a firing there fills, and as many that nothing reads, for which a firing
        keeps what it would not keep at the end of a stream. slots: all of them.
    """

    first: int
    end: int
    slots: int

    @property
    def period(self) -> int:
        """Positions between two leaps."""
        return self.end - self.first

    @classmethod
    def of(cls, block: int, taps: int, rollback: int) -> Window:
        """Of filters of some taps under a plan. block: its largest one that has outputs: the base
        where there is one tap, which leaves no future fill. rollback: positions that can be taken
        back.
        """
        spectra = -(-taps // block) if taps > 1 else 0
        first = block * (spectra - (-rollback // block))
        unit = block * max(spectra - 1, 1)
        # slots are copied to where none of them is, and as many can be taken back
        least = max(SHORTEST_PERIOD, first + block)
        period = -(-least // unit) * unit
        return cls(first, first + period, first + period + 2 * block)
