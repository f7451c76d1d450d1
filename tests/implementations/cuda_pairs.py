"""A GPU stream in the emulator beside its float64 reference, and what fills of both differ by."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.implementations import reference as plain
from futurefill_kernels.plan import Plan
from futurefill_kernels.state.tensors import StreamState, allocate
from tests.emulation.cuda_compile import unavailable
from tests.emulation.cuda_rig import make_state, run_fill
from tests.oracles import relative_error

needs_emulator = pytest.mark.skipif(
    unavailable() is not None, reason=f"no CUDA emulation: {unavailable()}"
)
ARCHS = ("sm_80", "sm_90")
FILL_ERROR = 4e-7


def make_pair(
    plan: Plan,
    channels: int,
    *,
    groups: int | None = None,
    batch: int = 1,
    layers: int = 1,
    taps: int | None = None,
    skip: bool = False,
) -> tuple[StreamState, StreamState]:
    """A GPU stream and its float64 reference, full of the same random values."""
    torch.manual_seed(channels + plan.length)
    groups = groups or channels
    filters = [torch.randn(groups, taps or plan.length) for _ in range(layers)]
    skips = torch.randn(layers, channels) if skip else None
    state = make_state(filters, plan, batch, channels, skips)
    reference = allocate(
        plan,
        plain.make_layout(channels, groups, torch.float64, plan),
        plain.make_spectra,
        [h.double() for h in filters],
        batch,
        skips,
    )
    state.ring[..., :channels] = torch.randn(*state.ring.shape[:-1], channels)
    reference.ring.copy_(state.ring[..., :channels])
    return state, reference


def fill_errors(
    state, reference, level, positions, rows=None, run=run_fill, **options
) -> list[float]:
    """Fires a level at each position, all rows alike; relative errors of the block that follows."""
    channels, errors = state.layout.channels, []
    for p in positions:
        before = state.ring.clone()
        state.positions[:] = p
        reference.positions[:] = p
        run(state, level, rows, **options)
        plain.fill(reference, level, rows)
        filled = slice(p, p + level.block)
        assert torch.equal(state.ring[..., :p, :], before[..., :p, :]), "inputs changed"
        assert torch.equal(state.ring[..., channels:], before[..., channels:]), "padding changed"
        got = state.ring[..., filled, :channels]
        errors.append(relative_error(got, reference.ring[..., filled, :]))
        before[..., filled, :channels] = got
        assert torch.equal(state.ring, before), "outputs outside the block changed"
        got.copy_(torch.randn_like(got))  # the steps' inputs
        reference.ring[..., filled, :] = got
    return errors
