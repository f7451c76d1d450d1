"""Which entries of a tensor a rank holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Split:
    """One dimension of a tensor, in ``parts`` of equal size one behind the other; rank ``r`` of
    ``ranks`` holds the ``r``-th piece of every part.

    size: entries of the dimension as a whole. Where ranks do not divide it (one part only) the
    last pieces are filled up with zeros, so that all have ``piece`` entries.
    """

    dim: int
    size: int
    ranks: int
    parts: int = 1

    def __post_init__(self) -> None:
        if self.parts > 1 and self.size % (self.parts * self.ranks):
            raise ValueError(
                f"expected {self.ranks} ranks to divide the {self.size} entries of "
                f"{self.parts} parts"
            )

    @property
    def piece(self) -> int:
        """Entries of a part that a rank holds."""
        return -(-self.size // (self.parts * self.ranks))

    @property
    def contiguous(self) -> bool:
        """Whether a rank holds neighbours only."""
        return self.parts == 1

    def take(self, whole: Tensor, rank: int) -> Tensor:
        """What a rank holds of the whole."""
        missing = self.parts * self.ranks * self.piece - self.size
        if missing:
            at_the_end = [0] * (2 * (whole.ndim - self.dim) - 1) + [missing]
            whole = F.pad(whole, at_the_end)
        pieces = whole.unflatten(self.dim, (self.parts, self.ranks, self.piece))
        return pieces.select(self.dim + 1, rank).flatten(self.dim, self.dim + 1)

    def join(self, pieces: Tensor) -> Tensor:
        """The whole from what all ranks hold, one rank behind the other along ``dim``."""
        cut = pieces.unflatten(self.dim, (self.ranks, self.parts, self.piece))
        whole = cut.transpose(self.dim, self.dim + 1).flatten(self.dim, self.dim + 2)
        return whole.narrow(self.dim, 0, self.size)

    def neighbours(self, rank: int) -> tuple[int, int]:
        """First entry and count of the rank-th chunk, as ``torch.chunk`` cuts the whole."""
        chunk = -(-self.size // self.ranks)
        first = min(rank * chunk, self.size)
        return first, min(chunk, self.size - first)

    def whole_shape(self, shape: torch.Size) -> torch.Size:
        """The whole's shape from that of a rank's part."""
        return torch.Size((*shape[: self.dim], self.size, *shape[self.dim + 1 :]))
