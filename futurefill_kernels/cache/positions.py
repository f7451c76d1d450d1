"""The books of a stream: how many positions every row has taken since its prompt, and which layer
of a token comes next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


class Positions:
    """Positions taken by each row, 0 at first.

    batch_size: rows ``B``. length: positions that a row can take.

    A step of all rows is common and has to be cheap: ``grant`` says how many of them can follow
    each other, and each lowers ``plain`` by one instead of writing to every row. Whoever changes
    the positions of some rows, or begins with some, takes back what is left of the grant
    (``settle``). Steps in compiled code (``Implementation.make_plain_step``) write ``plain`` and
    ``layer``, and only while ``open`` says that all of a step is in these two.
    """

    __slots__ = (
        "_granted", "_known", "_settled", "_together", "layer", "length", "open", "plain",
    )  # fmt: skip

    def __init__(self, batch_size: int, length: int) -> None:
        self.length = length
        self.plain = 0  # steps of all rows left in the grant
        self.layer = 0  # that comes next
        self.open = False
        self._granted = 0
        self._settled = 0  # tokens of earlier grants
        self._known = [0] * batch_size  # before the steps of the grant
        self._together = False  # whether the grant is to rows that are all at one position

    @property
    def rows(self) -> list[int]:
        """(B,) positions, not to be changed."""
        taken = self._granted - self.plain
        return [position + taken for position in self._known] if taken else self._known

    def settle(self) -> None:
        """End the grant."""
        self._known = self.rows
        self._settled += self._granted - self.plain
        self._granted = self.plain = 0
        self._together = False

    @property
    def full(self) -> bool:
        """Whether some row has taken all of its positions."""
        return self.plain <= 0 and max(self._known) + self._granted - self.plain >= self.length

    @property
    def common(self) -> int | None:
        """The position that all rows are at, as far as the grant knows."""
        return self._known[0] + self._granted - self.plain if self._together else None

    @property
    def tokens(self) -> int:
        """Tokens of all rows that the grants so far were used for."""
        return self._settled + self._granted - self.plain

    def room(self, row: int) -> int:
        """Positions that a row can still take."""
        return self.length - self._known[row] - self._granted + self.plain

    def grant(self) -> None:
        """Steps of all rows may follow until the first row is full."""
        self.settle()
        known = self._known
        self.plain = self._granted = self.length - max(known)
        self._together = min(known) == max(known)

    def advance(self, rows: Iterable[int]) -> None:
        """One position more in each of some rows; -1 is padding."""
        self.settle()
        for row in rows:
            if row >= 0:
                self._known[row] += 1

    def update(self, targets: Mapping[int, int]) -> None:
        """Rows to new positions."""
        self.settle()
        self._known = [targets.get(row, position) for row, position in enumerate(self._known)]

    def reorder(self, rows: Sequence[int]) -> None:
        """Row ``b`` gets the position of the old row ``rows[b]``."""
        self.settle()
        known = self._known
        self._known = [known[row] for row in rows]

    def clone(self) -> Positions:
        """An independent copy."""
        other = Positions(len(self._known), self.length)
        other._known, other._settled = list(self.rows), self.tokens
        return other
