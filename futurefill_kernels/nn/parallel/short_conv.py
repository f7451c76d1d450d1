"""Short convolutions cut by channels."""

from __future__ import annotations

from torch import nn

from ..short_conv import ShortConv
from .ranks import Ranks
from .sharded import shard
from .split import Split
from .style import PartsStyle, cannot_be, cannot_divide


class ShortConvChannels(PartsStyle):
    """A rank's channels of every part in and out; taps and inputs of others are not held.

    parts: projections that the convolution runs through at once.
    """

    def cannot(self, module: nn.Module, size: int) -> list[str]:
        """See `Style`."""
        reasons = cannot_be(module, ShortConv)
        if reasons or not isinstance(module, ShortConv):
            return reasons
        return cannot_divide("channels of each part", len(module.weight) // self.parts, size)

    def divide(self, module: nn.Module, ranks: Ranks) -> None:
        """See `Style`."""
        assert isinstance(module, ShortConv)
        channels = Split(0, len(module.weight), ranks.size, self.parts)
        shard(module, ranks, {"weight": channels})
