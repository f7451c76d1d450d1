"""Other filters for a stream that goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from ..checks import filter_list
from ..implementations.base import Implementation
from ..state.filters import make_bank, prepare
from ..state.tensors import StreamState, padded_skip
from .checks import check_sizes
from .construct import significant


def other_filters(
    state: StreamState,
    implementation: Implementation,
    filters: Tensor | Sequence[Tensor],
    skip: Tensor | None,
) -> StreamState:
    """A state of the same tensors with other filters; pending outputs are still of the old ones.

    filters, skip: as in `FutureFillCache`; skip None: the one that is there.
    """
    layers, batch = state.token_at.shape
    given, plan = filter_list(filters), state.plan
    check_sizes(given, batch, plan.length, state.channels, skip)
    groups = state.filters.shape[1]
    if (len(given), given[0].shape[0]) != (layers, groups):
        raise ValueError(
            f"expected filters of {layers} layers of G = {groups}, got {len(given)} of "
            f"{given[0].shape[0]}"
        )
    dtype, device = state.dtype, state.ring.device
    taps = [significant(h.detach().to(device, dtype)) for h in given]
    assert plan.filter_length is not None
    longest = max(h.shape[1] for h in taps)
    if longest > plan.filter_length != plan.length:  # only prompts meet taps behind a stream's N
        raise ValueError(
            f"expected filters of at most {plan.filter_length} taps above rounding, as many as the "
            f"cache was made with, got {longest}: make it with the longest filters"
        )
    bank = make_bank(taps, dtype, state.filters.dtype)
    spectra = state.prepared.spectra.dtype
    return dataclasses.replace(
        state,
        prepared=prepare(bank, plan, state.layout, implementation.make_spectra, spectra),
        skip=state.skip if skip is None else padded_skip(skip, layers, state.layout, dtype, device),
    )


def check_prompts(state: StreamState, taken: Sequence[int], forgotten: set[int]) -> None:
    """Of every row all inputs that filters reach are there.

    taken: positions of the rows. forgotten: rows whose prompts' inputs are not there any more.
    """
    assert state.plan.filter_length is not None
    taps = max(state.filters.shape[2], state.plan.filter_length)
    all_needed = state.prompt_fill is not None
    for row in sorted(forgotten):
        if all_needed or taken[row] < taps - 1:
            raise ValueError(
                f"set_filters needs all inputs that filters of {taps} taps reach, but row {row} "
                f"has taken {taken[row]} positions since a prompt or load, whose inputs are not "
                f"kept" + (" (rollback=None and slack reach all)" if all_needed else "")
            )
