"""Long filters cut by channels: a rank holds taps, spectra, ring and history of its own."""

from __future__ import annotations

from torch import Tensor, nn

from ..filters import LongFilter
from ..hyena import ImplicitFilter
from ..long_conv import ExplicitFilter
from ..short_conv import ShortConv
from ..stu import SpectralBank, SpectralFilter
from .ranks import Ranks
from .sharded import shard
from .split import Split
from .style import Style, cannot_be, cannot_divide


class FilterChannels(Style):
    """A rank's channels in and out. Of an implicit filter it has the output rows and decays of its
    channels, of explicit and spectral filters their rows; the bank of all spectral filters has no
    parameters, and its copies are cut alike.
    """

    def cannot(self, module: nn.Module, size: int) -> list[str]:
        """See `Style`."""
        reasons = cannot_be(module, ImplicitFilter, ExplicitFilter, SpectralFilter, SpectralBank)
        if reasons or not isinstance(module, LongFilter):
            return reasons
        if isinstance(module, SpectralBank):
            return cannot_divide("channels", module.channels // module.groups, size)
        reasons = cannot_divide("channels", module.channels, size)
        if not reasons and module.groups % size and size % module.groups:
            reasons = [
                f"expected the number of ranks to divide groups = {module.groups}, or to be a "
                f"multiple of them, got {size} ranks"
            ]
        return reasons

    def divide(self, module: nn.Module, ranks: Ranks) -> None:
        """See `Style`."""
        assert isinstance(module, LongFilter)
        copies = module.groups if isinstance(module, SpectralBank) else 1
        module.cut = Split(0, module.channels, ranks.size, copies)  # type: ignore[assignment]
        rows = Split(0, module.channels, ranks.size)
        splits = {} if module.skip is None else {"skip": rows}
        if isinstance(module, ImplicitFilter):
            shard(module.output, ranks, {"weight": rows})
            splits["log_decay_length"] = rows
        elif isinstance(module, SpectralFilter):
            splits["mix"] = rows
        elif isinstance(module, ExplicitFilter) and module.groups % ranks.size == 0:
            splits["weight"] = Split(0, module.groups, ranks.size)
        elif isinstance(module, ExplicitFilter):
            module.row = ranks.rank * module.groups // ranks.size  # type: ignore[assignment]
            module.__class__ = SharedRow
        shard(module, ranks, splits)
        if not isinstance(module, SpectralBank):
            module.groups = max(module.groups // ranks.size, 1)
        module.channels //= ranks.size


def cut_of(module: LongFilter | ShortConv) -> Split:
    """How the channels of a convolution are cut."""
    if isinstance(module, ShortConv):
        return vars(module)["splits"]["weight"]
    return vars(module)["cut"]


def whole_rows(module: LongFilter, taps: Tensor, ranks: Ranks) -> Tensor:
    """Taps (G, L) of the whole filter from a rank's own. Collective."""
    if isinstance(module, SpectralBank):
        return taps
    whole = ranks.gather(taps, 0)
    return whole[:: ranks.size // len(module.weight)] if isinstance(module, SharedRow) else whole


class SharedRow(ExplicitFilter):
    """An explicit filter with fewer rows than ranks: each holds all and uses ``row``."""

    row: int

    def taps(self, length: int) -> Tensor:
        """The first ``min(length, L)`` taps, (1, min(length, L))."""
        return self.weight[self.row : self.row + 1, :length]
