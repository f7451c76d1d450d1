"""The long convolutions of a model: filters of equal shape are layers of one FutureFillCache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import Tensor, nn

from ..cache.cache import FutureFillCache
from ..checks import DTYPES, state_dtype
from ..nn.filters import LongFilter
from ..plan import Plan


class CacheOptions(TypedDict):
    """Arguments of a `FutureFillCache` that are the same for all filters of a model."""

    plan: Plan | None
    impl: str
    fill_stream: torch.cuda.Stream | None
    spectra_dtype: torch.dtype | None
    state_dtype: torch.dtype | None
    filters_dtype: torch.dtype | None
    memory: str


class ModelOptions(CacheOptions):
    """Those of a model's caches."""

    rollback: int | None
    keep_prompt_spectra: bool


def equal_filters(modules: Iterable[nn.Module]) -> list[list[LongFilter]]:
    """The long filters among modules, those of equal shape together, in their order."""
    groups: dict[tuple[object, ...], list[LongFilter]] = {}
    for module in modules:
        if isinstance(module, LongFilter):
            unskipped, cut = module.skip_weights() is None, vars(module).get("cut")
            signature = (module.channels, module.groups, unskipped, cut)
            groups.setdefault(signature, []).append(module)
    return list(groups.values())


def activations_of(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Dtype and device of what a model's layers hand on: those of its first weights outside the
    filters, which may be of another dtype; else of the filters; else float32 on the CPU.
    """
    modules = list(model.modules())
    inside = {p for m in modules if isinstance(m, LongFilter) for p in m.parameters()}
    weights = [p for p in model.parameters() if p.dtype in DTYPES]
    weights.sort(key=lambda p: p in inside)  # keeps their order otherwise
    tensors = [*weights, *model.buffers()]
    dtype = weights[0].dtype if weights else torch.float32
    return dtype, tensors[0].device if tensors else torch.device("cpu")


@torch.no_grad()
def cache_of_filters(
    filters: list[LongFilter],
    batch_size: int,
    max_new_tokens: int,
    options: ModelOptions,
    dtype: torch.dtype,
    device: torch.device,
) -> FutureFillCache:
    """One cache whose layers are filters of equal shape. dtype, device: of their inputs."""
    skips = [skip for module in filters if (skip := module.skip_weights()) is not None]
    state = state_dtype(dtype, options["state_dtype"])
    return FutureFillCache(
        [module.taps_on(module.context_length, device, state) for module in filters],
        batch_size,
        max_new_tokens,
        channels=filters[0].channels,
        dtype=dtype,
        skip=torch.stack(skips) if skips else None,
        **options,
    )


def common_dtype(cache: FutureFillCache, *inputs: Tensor | None) -> torch.dtype:
    """The dtype that inputs of a cache's convolution meet in; the cache takes it from here on.

    Inputs are rounded nowhere: narrower ones are widened, and a cache is widened where they are
    wider. TypeError for float64 beside float32 state.
    """
    dtype = cache.dtype
    for x in inputs:
        if x is not None and x.dtype is not dtype:
            dtype = torch.promote_types(dtype, x.dtype)
    if dtype is not cache.dtype:
        if state_dtype(dtype) is not state_dtype(cache.dtype):
            raise TypeError(
                f"expected activations of at most torch.float32 beside {cache.dtype} weights, got "
                f"{dtype}: model.double() makes state and arithmetic float64"
            )
        cache.widen(dtype)
    return dtype
