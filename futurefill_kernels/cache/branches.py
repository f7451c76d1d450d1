"""Where streams of rows parted: up to there their inputs are the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


class _Branch:
    """Positions of one row from ``start`` on, where it parted from others that ``origin`` is of."""

    __slots__ = ("depth", "origin", "start", "trunk")

    def __init__(self, origin: _Branch | None, start: int) -> None:
        self.origin, self.start = origin, start
        self.trunk: _Branch = self if origin is None else origin.trunk
        self.depth: int = 0 if origin is None else origin.depth + 1


class Branches:
    """Of every row the branch that it is on; branches of copies grow from one trunk.

    batch_size: rows ``B``.
    """

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
        """Row ``b`` becomes what row ``rows[b]`` was, which was at ``positions[rows[b]]``."""
        old, copies = self._rows, dict.fromkeys(rows, 0)
        for row in rows:
            copies[row] += 1
        self._rows = [
            old[row] if copies[row] == 1 else _Branch(old[row], positions[row]) for row in rows
        ]

    def common(self, row: int, other: int) -> int:
        """How many first positions the two rows have in common."""
        a, b = self._rows[row], self._rows[other]
        if a.trunk is not b.trunk:
            return 0
        parted = a.start
        while a is not b:
            if a.depth < b.depth:
                a, b = b, a
            parted = min(parted, a.start)
            assert a.origin is not None  # of two of one trunk
            a = a.origin
        return parted
