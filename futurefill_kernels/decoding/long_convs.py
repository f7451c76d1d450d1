"""The long convolutions of a model: filters of equal shape are layers of one FutureFillCache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import Tensor, nn

from ..cache.cache import FutureFillCache
from ..nn.filters import LongFilter
from ..plan import Plan


class CacheOptions(TypedDict):
    """Arguments of a `FutureFillCache` that are the same for all filters of a model."""

    plan: Plan | None
    impl: str
    fill_stream: torch.cuda.Stream | None
    spectra_dtype: torch.dtype | None


def equal_filters(modules: Iterable[nn.Module]) -> list[list[LongFilter]]:
    """The long filters among modules, those of equal shape together, in their order."""
    groups: dict[tuple[int, int, bool], list[LongFilter]] = {}
    for module in modules:
        if isinstance(module, LongFilter):
            signature = (module.channels, module.groups, module.skip is None)
            groups.setdefault(signature, []).append(module)
    return list(groups.values())


@torch.no_grad()
def cache_of_filters(
    filters: list[LongFilter],
    batch_size: int,
    max_new_tokens: int,
    options: CacheOptions,
    dtype: torch.dtype | None = None,
) -> FutureFillCache:
    """One cache whose layers are filters of equal shape. dtype: of their inputs, default that of
    their parameters, or of their taps where they have none.
    """
    skips: list[Tensor] = [module.skip for module in filters if module.skip is not None]
    return FutureFillCache(
        [module.taps(module.context_length) for module in filters],
        batch_size,
        max_new_tokens,
        channels=filters[0].channels,
        dtype=next((p.dtype for p in filters[0].parameters()), dtype),
        skip=torch.stack(skips) if skips else None,
        **options,
    )
