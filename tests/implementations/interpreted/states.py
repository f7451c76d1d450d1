"""States of the Triton implementation, full of random values."""

from __future__ import annotations

import torch

from futurefill_kernels import Plan
from futurefill_kernels.implementations import triton
from futurefill_kernels.state.tensors import StreamState, allocate


def make_state(
    plan: Plan,
    channels: int,
    batch: int,
    groups: int,
    layers: int = 1,
    skip: bool = True,
    spectra_dtype: torch.dtype | None = None,
    ring_dtype: torch.dtype | None = None,
) -> tuple[StreamState, list[torch.Tensor]]:
    """A state with random rings and open blocks, and its filters (G, L) per layer."""
    assert plan.filter_length is not None
    filters = [torch.randn(groups, plan.filter_length) for _ in range(layers)]
    layout = triton.make_layout(channels, groups, torch.float32, plan)
    weights = torch.randn(layers, channels) if skip else None
    state = allocate(
        plan, layout, triton.make_spectra, filters, batch, weights, spectra_dtype,
        ring_dtype=ring_dtype,
    )  # fmt: skip
    state.ring[..., :channels].normal_()
    state.open_block[..., :channels].normal_()
    state.kept.fill_(float("nan"))
    return state, filters
