"""A long convolution whose taps are parameters (LongConv, arXiv 2302.06646)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .filters import LongFilter
from .interface import Cache


class ExplicitFilter(LongFilter):
    """Taps stored one by one. Arguments as in `LongFilter`."""

    def __init__(
        self, channels: int, context_length: int, *, groups: int | None = None, skip: bool = True
    ) -> None:
        super().__init__(channels, context_length, groups=groups, skip=skip)
        self.weight = nn.Parameter(torch.randn(self.groups, context_length) / context_length**0.5)

    def taps(self, length: int) -> Tensor:
        """The first ``min(length, L)`` taps, (G, min(length, L))."""
        return self.weight[:, :length]


class LongConv(nn.Module):
    """``y_t = sum_s h_s x_{t-s} + skip x_t`` per channel, with an explicit filter.

    channels: ``D``. context_length: taps ``L``. groups: filter rows ``G``, channel ``d`` uses row
    ``d // (D/G)``. skip: whether a weight per channel multiplies the input itself.
    """

    def __init__(
        self, channels: int, context_length: int, *, groups: int | None = None, skip: bool = True
    ) -> None:
        super().__init__()
        self.filter = ExplicitFilter(channels, context_length, groups=groups, skip=skip)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        return self.filter(x.transpose(1, 2), cache).transpose(1, 2)
