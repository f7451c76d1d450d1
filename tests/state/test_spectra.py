"""Filter spectra are the taps in another basis."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import Plan
from futurefill_kernels.state.layout import Layout
from futurefill_kernels.state.spectra import (
    block_spectra,
    inverse_twisted_transform,
    tiled_spectra,
    tree_order,
    twisted_transform,
)


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_the_transform_evaluates_at_the_roots_of_i(n):
    z = torch.randn(3, n, dtype=torch.complex128)
    order = tree_order(n)
    assert sorted(order.tolist()) == list(range(n))
    angles = 2 * torch.pi * (order.double() + 0.25) / n
    roots = torch.polar(torch.ones(n, dtype=torch.float64), angles)
    assert torch.allclose(roots**n, torch.full((n,), 1j, dtype=torch.complex128))
    powers = roots[:, None] ** torch.arange(n, dtype=torch.float64)
    values = twisted_transform(z)
    assert torch.allclose(values, z @ powers.mT)
    assert torch.allclose(inverse_twisted_transform(values), z)


def test_spectra_hold_the_filter_rows():
    plan = Plan(64, (8,))
    h = torch.randn(3, 64)
    layout = Layout.padded(12, 3, plan.length)
    spectra = tiled_spectra(h, plan, layout, torch.float32)[0]  # (rows, 2, 32)
    assert not spectra[..., 3:].any()
    first = torch.complex(spectra[:8, 0], spectra[:8, 1]).T[:3]  # (G, n): taps 0 .. 15
    packed = inverse_twisted_transform(first.to(torch.complex128) * 8)
    taps = torch.cat([packed.real, packed.imag], 1)
    assert torch.allclose(taps, h[:, :16].double(), atol=1e-6)


def test_spectra_of_a_late_level_begin_late():
    h = torch.randn(2, 200, dtype=torch.float64)
    level = next(lv for lv in Plan(200, (4, 8, 32), slack_from=8).levels if lv.late)
    packed = inverse_twisted_transform(block_spectra(h, level) * level.transform)
    taps = torch.cat([packed.real, packed.imag], -1)[:, 0]
    assert torch.allclose(taps, h[:, level.late : level.late + 2 * level.block])
