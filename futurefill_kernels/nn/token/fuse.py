"""Which fused token a model gets: that of the device its long convolutions run on."""

from __future__ import annotations

from torch import nn

from ...cache.cache import FutureFillCache
from ..filters import LongFilter
from ..language_model import LanguageModel
from ..parallel.ranks import ranks_of
from ..short_conv import ShortConv, ShortConvState
from . import cpu, gpu


def fuse(
    model: nn.Module,
    batch_size: int,
    place: dict[LongFilter, tuple[int, int]],
    short: dict[ShortConv, ShortConvState],
    caches: list[FutureFillCache],
) -> tuple[cpu.FusedToken | gpu.FusedToken | None, list[str]]:
    """The fused token of a model, or None and why its tokens take one call per layer.

    The other parameters are those of the two classes.
    """
    ranks = ranks_of(model)
    if ranks is not None:
        return None, [
            f"the model is cut over {ranks.size} ranks, whose sums stand between its layers"
        ]
    if caches[0].device.type == "cuda" or caches[0].capabilities.kind == "cuda":
        reasons = gpu.cannot_fuse(model, caches)
        if not reasons and isinstance(model, LanguageModel):
            return gpu.FusedToken(model, batch_size, place, short, caches), []
    else:
        reasons = cpu.cannot_fuse(model, caches)
        if not reasons and isinstance(model, LanguageModel):
            return cpu.FusedToken(model, batch_size, place, short), []
    return None, reasons
