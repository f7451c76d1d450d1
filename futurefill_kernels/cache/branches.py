"""Where streams of rows parted: up to there their inputs are the same bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence


class _Branch:
    """Positions of one row from ``start`` on, where it parted from the row on ``origin``."""

    __slots__ = ("depth", "origin", "start", "trunk")

    def __init__(self, origin: _Branch | None, start: int) -> None:
        self.origin, self.start = origin, start
        self.trunk: _Branch = self if origin is None else origin.trunk
        self.depth: int = 0 if origin is None else origin.depth + 1


class Branches:
    """Of every row the branch that it is on; branches of copies grow from one trunk.

    batch_size: rows ``B``. address: for compiled code, which has its own.
    """

    address = 0

    def __init__(self, batch_size: int) -> None:
        self._rows = [_Branch(None, 0) for _ in range(batch_size)]

    def clone(self) -> Branches:
        """An independent copy."""
        other = Branches(0)
        other._rows = list(self._rows)
        return other

    def renew(self, rows: Iterable[int]) -> None:
        """The rows have nothing in common with any other."""
        for row in rows:
            self._rows[row] = _Branch(None, 0)

    def crop_rows(self, positions: Mapping[int, int]) -> None:
        """What rows had from positions on is gone."""
        for row, position in positions.items():
            branch = self._rows[row]
            while branch.origin is not None and branch.start > position:
                branch = branch.origin
            self._rows[row] = _Branch(branch, position)

    def reorder(self, rows: Sequence[int], positions: Sequence[int]) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was, which was at ``positions[rows[b]]``.

        The first of its copies stays on its branch, the others part from it there.
        """
        old, known, new = self._rows, set[int](), []
        for row in rows:
            branch = old[row]
            if row in known:
                branch = _Branch(branch, positions[row])
            known.add(row)
            new.append(branch)
        self._rows = new

    def common(self, row: int, other: int) -> int:
        """How many first positions two rows have in common, which are not one."""
        a, b = self._rows[row], self._rows[other]
        if a.trunk is not b.trunk:
            return 0
        parted = sys.maxsize
        while a is not b:
            if a.depth < b.depth:
                a, b = b, a
            parted = min(parted, a.start)
            assert a.origin is not None  # of two of one trunk
            a = a.origin
        return parted
