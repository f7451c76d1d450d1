"""The differentiable convolution that mixers train with."""

from __future__ import annotations

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


def test_training_reaches_every_parameter():
    torch.manual_seed(0)
    model = Stack()
    model(torch.randn(1, 12, CHANNELS)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
