"""The books of a stream: how many positions every row has taken since its prompt, and which layer
of a token comes next.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from ..plan import Plan


class Positions:
    """Positions taken by each row, 0 at first.

    Those of an endless stream are places in its window (`Window`), with ``origins``, the
    positions that lie before it.

    batch_size: rows ``B``.

    A step of all rows is common and has to be cheap: ``grant`` says how many of them can follow
    each other, and each lowers ``plain`` by one instead of writing to every row. Whoever changes
    the positions of some rows, or begins with some, takes back what is left of the grant
    (``settle``). Steps in compiled code (``Implementation.make_plain_steps``) write ``plain`` and
    ``layer``, and only while ``open`` says that all of a step is in these two.
    """

    __slots__ = (
        "_granted",
        "_known",
        "_plan",
        "_settled",
        "_together",
        "end",
        "endless",
        "layer",
        "open",
        "origins",
        "plain",
    )  # fmt: skip

    def __init__(self, batch_size: int, plan: Plan) -> None:
        self._plan = plan
        self.end, self.endless = plan.end, plan.length is None
        self.plain = 0  # steps of all rows left in the grant
        self.layer = 0  # that comes next
        self.open = False
        self._granted = 0
        self._settled = 0  # tokens of earlier grants
        self._known = [0] * batch_size  # before the steps of the grant
        self.origins = [0] * batch_size
        self._together = False  # whether the grant is to rows that are all at one position

    @property
    def rows(self) -> list[int]:
        """(B,) positions in the state, not to be changed."""
        taken = self._granted - self.plain
        return [position + taken for position in self._known] if taken else self._known

    @property
    def taken(self) -> list[int]:
        """(B,) positions since the prompt, not to be changed."""
        rows = self.rows
        if not self.endless:
            return rows
        return [origin + position for origin, position in zip(self.origins, rows, strict=True)]

    def settle(self) -> None:
        """End the grant."""
        rows, settled = self.rows, self.tokens
        # at once: an interrupt finds the grant, or none
        self._known, self._settled, self._granted, self.plain = rows, settled, 0, 0
        self._together = False

    @property
    def full(self) -> bool:
        """Whether some row has taken all of its positions."""
        if self.endless:
            return False
        return self.plain <= 0 and max(self._known) + self._granted - self.plain >= self.end

    @property
    def common(self) -> int | None:
        """The position that all rows are at, as far as the grant knows."""
        return self._known[0] + self._granted - self.plain if self._together else None

    @property
    def in_step(self) -> bool:
        """Whether the newest token was a step of all rows at one position: what was due at it has
        run in all of them.
        """
        return self._together and self.plain < self._granted

    @property
    def tokens(self) -> int:
        """Tokens of all rows that the grants so far were used for."""
        return self._settled + self._granted - self.plain

    def room(self, row: int) -> int:
        """Positions that a row can still take."""
        if self.endless:
            return sys.maxsize
        return self.end - self._known[row] - self._granted + self.plain

    def grant(self) -> None:
        """Steps of all rows may follow until the first row is at the end."""
        self.settle()
        known = self._known
        self.plain = self._granted = self.end - max(known)
        self._together = min(known) == max(known)

    def advance(self, rows: Iterable[int]) -> None:
        """One position more in each of some rows; -1 is padding."""
        self.settle()
        known = list(self._known)
        for row in rows:
            if row >= 0:
                known[row] += 1
        self._known = known

    def stand(self, places: Mapping[int, int], taken: Mapping[int, int]) -> None:
        """Rows at places in the state, with that many positions taken."""
        self.settle()
        known, origins = list(self._known), list(self.origins)
        for row, place in places.items():
            known[row], origins[row] = place, taken[row] - place
        self._known, self.origins = known, origins

    def advance_by(self, counts: Mapping[int, int]) -> None:
        """Rows that many positions on."""
        at, taken = self.rows, self.taken
        ends = {row: self._plan.place(at[row] + count) for row, count in counts.items()}
        self.stand(ends, {row: taken[row] + count for row, count in counts.items()})

    def reorder(self, rows: Sequence[int]) -> None:
        """Row ``b`` gets the position of the old row ``rows[b]``."""
        if self._together and not self.endless:  # it has it
            return
        self.settle()
        known, origins = self._known, self.origins
        self._known, self.origins = [known[row] for row in rows], [origins[row] for row in rows]

    def clone(self) -> Positions:
        """An independent copy."""
        other = Positions(len(self._known), self._plan)
        other._known, other._settled = list(self.rows), self.tokens
        other.origins = list(self.origins)
        return other
