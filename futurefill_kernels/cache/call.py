"""The call whose layers are under way, and one layer's tokens of a ``prefill`` call."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Token(NamedTuple):
    """The call whose layers are under way: its rows (None: all), lengths if it is of many tokens,
    and whether these are steps, which end a prompt.
    """

    rows: list[int] | None
    lengths: list[int] | None = None
    steps: bool = False


class Call(NamedTuple):
    """One layer's tokens of a ``prefill`` call.

    rows: R rows of the batch. lengths: valid positions of each right-padded row, at least 1.
    u, pre, post: (R, D, P).
    """

    layer: int
    rows: list[int]
    lengths: list[int]
    u: Tensor
    pre: Tensor | None
    post: Tensor | None

    def part(self, members: slice | list[int]) -> Call:
        """The same call of some of the R rows; a slice copies nothing, nor does all in order."""
        everyone = range(len(self.rows))
        chosen = everyone[members] if isinstance(members, slice) else members
        if list(chosen) == list(everyone):
            return self
        return self._replace(
            rows=[self.rows[r] for r in chosen],
            lengths=[self.lengths[r] for r in chosen],
            u=self.u[members],
            pre=None if self.pre is None else self.pre[members],
            post=None if self.post is None else self.post[members],
        )


def runs(members: list[int]) -> list[slice]:
    """Ascending indices as slices without gaps."""
    runs: list[slice] = []
    for r in members:
        if runs and runs[-1].stop == r:
            runs[-1] = slice(runs[-1].start, r + 1)
        else:
            runs.append(slice(r, r + 1))
    return runs
