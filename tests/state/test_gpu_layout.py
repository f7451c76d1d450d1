"""The layout of the GPU implementations: padding, filter rows and spectra."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import Plan
from futurefill_kernels.state import gpu_layout
from futurefill_kernels.state.spectra import inverse_twisted_transform
from futurefill_kernels.state.tensors import allocate, from_tiles, state_nbytes, to_tiles


@pytest.mark.parametrize(
    ("channels", "groups", "lanes", "filter_lanes"),
    [(1, 1, 32, 32), (7, 7, 32, 32), (100, 20, 128, 32), (64, 1, 64, 32), (1000, 1000, 1024, 1024)],
)
def test_shapes(channels, groups, lanes, filter_lanes):
    plan = Plan(50, (4, 8), filter_length=30)
    layout = gpu_layout.make_layout(channels, groups, torch.float32, plan)
    h = torch.randn(groups, 30)
    skip = torch.ones(channels)
    state = allocate(plan, layout, gpu_layout.make_spectra, [h, h], 3, skip)
    assert state.ring.shape == (2, 3, 1, 50, lanes)
    assert state.kept.shape == (2, 3, 1, plan.kept_rows, 2, lanes)
    assert state.spectra.shape == (2, 1, plan.spectra_rows, 2, filter_lanes)
    assert state.taps.shape == (2, 1, 4, filter_lanes)
    assert state.skip is not None
    assert state.skip.shape == (2, lanes)
    expected = state_nbytes(plan, layout, layers=2, batch_size=3, skip=True)
    assert state.nbytes == expected
    x = torch.randn(2, channels, 50)
    assert torch.equal(from_tiles(to_tiles(x, layout), layout), x)


def test_spectra_hold_the_filter_rows():
    plan = Plan(64, (8,))
    layout = gpu_layout.make_layout(12, 3, torch.float32, plan)
    h = torch.randn(3, 64)
    spectra = gpu_layout.make_spectra(h, plan, layout, torch.float32)[0]  # (rows, 2, 32)
    assert not spectra[..., 3:].any()
    first = torch.complex(spectra[:8, 0], spectra[:8, 1]).T[:3]  # (G, n): taps 0 .. 15
    packed = inverse_twisted_transform(first.to(torch.complex128) * 8)
    taps = torch.cat([packed.real, packed.imag], 1)
    assert torch.allclose(taps, h[:, :16].double(), atol=1e-6)
