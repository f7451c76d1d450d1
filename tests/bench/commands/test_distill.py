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
    modes = distill.to_modes(h, 4)
    assert modes[0].shape == (3, 2)
    assert relative_error(distill.taps_of(*modes, 256), h) < 1e-4


def test_real_poles_and_pairs_in_one_filter():
    steps = torch.arange(200.0)
    h = torch.stack([0.9**steps + 0.5 * 0.7**steps, 0.95**steps * torch.cos(0.4 * steps)])
    poles, weights = distill.to_modes(h, 2)
    assert poles.shape == (2, 2)  # the first filter has two modes, the second one
    assert weights[1, 1] == 0
    assert relative_error(distill.taps_of(poles, weights, 200), h) < 1e-4
