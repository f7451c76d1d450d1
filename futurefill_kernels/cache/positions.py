"""The books of a stream: how many positions every row has taken since its prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


class Positions:
    """Positions taken by each row, 0 at first.

    batch_size: rows ``B``. length: positions that a row can take.

    A step of all rows is common and has to be cheap: ``grant`` says how many of them can follow
    each other, and each lowers ``plain`` by one instead of writing to every row. Whoever reads or
    changes the positions of rows takes back what is left of the grant.
    """

    __slots__ = ("_granted", "_known", "length", "plain")

    def __init__(self, batch_size: int, length: int) -> None:
        self.length = length
        self.plain = 0  # steps of all rows left in the grant
        self._granted = 0
        self._known = [0] * batch_size  # before the steps of the grant

    @property
    def rows(self) -> list[int]:
        """(B,) positions, not to be changed; ends the grant."""
        taken = self._granted - self.plain
        self._granted = self.plain = 0
        if taken:
            self._known = [position + taken for position in self._known]
        return self._known

    @property
    def full(self) -> bool:
        """Whether some row has taken all of its positions."""
        return self.plain <= 0 and max(self._known) + self._granted - self.plain >= self.length

    def room(self, row: int) -> int:
        """Positions that a row can still take."""
        return self.length - self.rows[row]

    def grant(self) -> None:
        """Steps of all rows may follow until the first row is full."""
        self.plain = self._granted = self.length - max(self.rows)

    def advance(self, rows: Iterable[int]) -> None:
        """One position more in each of some rows; -1 is padding."""
        known = self.rows
        for row in rows:
            if row >= 0:
                known[row] += 1

    def update(self, targets: Mapping[int, int]) -> None:
        """Rows to new positions."""
        self._known = [targets.get(row, position) for row, position in enumerate(self.rows)]

    def reorder(self, rows: Sequence[int]) -> None:
        """Row ``b`` gets the position of the old row ``rows[b]``."""
        known = self.rows
        self._known = [known[row] for row in rows]

    def clone(self) -> Positions:
        """An independent copy."""
        other = Positions(len(self._known), self.length)
        other._known = list(self.rows)
        return other
