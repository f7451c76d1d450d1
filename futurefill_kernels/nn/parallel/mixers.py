"""Mixers whose inputs or outputs are whole where their convolutions are cut."""

from __future__ import annotations

from torch import Tensor, nn

from ..interface import Cache
from ..long_conv import LongConv
from ..stu import STU
from .ranks import Ranks
from .style import Style, cannot_be


class ParallelSTU(STU):
    """An STU of a rank's channels. Tensorised its outputs are gathered; with the full bank it
    convolves its channels of every copy, and the projection sums over ranks.
    """

    ranks: Ranks

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        if self.tensorised:
            return self.ranks.gather(super().forward(x, cache))
        return super().forward(self.ranks.own(x), cache)


class ParallelLongConv(LongConv):
    """A long convolution of a rank's channels, whose outputs are gathered."""

    ranks: Ranks

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        return self.ranks.gather(super().forward(self.ranks.own(x), cache))


_PARALLEL: dict[type[nn.Module], type[nn.Module]] = {STU: ParallelSTU, LongConv: ParallelLongConv}


class WholeOutside(Style):
    """A mixer between whole activations; its projection and filter have styles of their own."""

    def cannot(self, module: nn.Module, size: int) -> list[str]:
        """See `Style`."""
        return cannot_be(module, *_PARALLEL)

    def divide(self, module: nn.Module, ranks: Ranks) -> None:
        """See `Style`."""
        module.ranks = ranks  # type: ignore[assignment]
        module.__class__ = _PARALLEL[type(module)]
