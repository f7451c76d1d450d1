"""The differentiable convolution that mixers train with."""

from __future__ import annotations

import math

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.nn.filters import fft_conv
from tests.nn.mixers import CHANNELS, Stack


@pytest.mark.parametrize(("length", "taps", "groups"), [(1, 1, 1), (13, 5, 3), (5, 13, 6)])
def test_fft_conv_is_the_package_s_parallel_form_and_has_its_gradient(length, taps, groups):
    torch.manual_seed(0)
    u = torch.randn(2, 6, length, dtype=torch.float64)
    h = torch.randn(groups, taps, dtype=torch.float64)
    torch.testing.assert_close(fft_conv(u, h), ff.causal_conv(u, h))
    assert torch.autograd.gradcheck(fft_conv, (u.requires_grad_(), h.requires_grad_()))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("taps", [1, 7, 40])
@pytest.mark.parametrize("t", [0, 11, 39])
def test_one_bad_input_reaches_what_its_taps_multiply_and_no_more(bad, taps, t):
    torch.manual_seed(0)
    u, h = torch.randn(2, 6, 40, dtype=torch.float64), torch.randn(3, taps, dtype=torch.float64)
    expected, poisoned = ff.causal_conv(u, h), u.clone()
    poisoned[1, 4, t] = bad
    reached = torch.zeros(2, 6, 40, dtype=torch.bool)
    reached[1, 4, t : t + taps] = True
    per_row = torch.func.vmap(lambda row: fft_conv(row[None], h)[0])(poisoned)  # never looks
    for y in (fft_conv(poisoned, h), per_row):
        assert torch.equal(y.isnan(), reached)
        torch.testing.assert_close(y[~reached], expected[~reached])


def test_bad_padding_leaves_outputs_and_gradients_of_what_is_valid():
    torch.manual_seed(0)
    u, h = (torch.randn(n, 30, dtype=torch.float64) for n in (4, 4))
    found = []
    for padding in (0.0, math.nan, math.inf):
        x, taps = u.clone()[None], h.clone()
        x[..., 20:] = padding
        x.requires_grad_()
        taps.requires_grad_()
        y = fft_conv(x, taps)[..., :20]
        y.square().sum().backward()
        found.append((y.detach(), x.grad[..., :20], taps.grad))
    for others in found[1:]:
        for mine, expected in zip(others, found[0], strict=True):
            torch.testing.assert_close(mine, expected)


def test_training_reaches_every_parameter():
    torch.manual_seed(0)
    model = Stack()
    model(torch.randn(1, 12, CHANNELS)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
