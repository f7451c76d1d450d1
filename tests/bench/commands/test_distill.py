"""Recurrences distilled from filters."""

from __future__ import annotations

import torch

from bench.commands import distill
from bench.harness.rows import relative_error


def test_distilled_modes_of_a_recurrence_are_exact():
    generator = torch.Generator().manual_seed(0)
    radius, angle = 0.9 + 0.09 * torch.rand(3, 2, generator=generator), torch.rand(3, 2)
    poles, weights = torch.polar(radius, angle), torch.randn(3, 2, generator=generator) + 0j
    h = distill.taps_of(poles, weights, 256)
    # real parts of two complex modes are two conjugate pairs, four states
    found = distill.taps_of(*distill.to_modes(h, 4), 256)
    assert relative_error(found, h) < 1e-4
