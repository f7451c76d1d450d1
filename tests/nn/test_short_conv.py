"""The few-tap convolution before the gates: its sum, and sizes that it refuses."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.nn import Hyena
from futurefill_kernels.nn.short_conv import ShortConv


@torch.no_grad()
def test_it_is_the_sum_over_its_taps():
    torch.manual_seed(0)
    conv = ShortConv(4, taps=3).double()
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    expected = conv.weight[:, :1] * x
    for s in (1, 2):
        expected[..., s:] += conv.weight[:, s : s + 1] * x[..., :-s]
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


def test_no_taps_are_refused():
    with pytest.raises(ValueError, match="taps >= 1, got 0"):
        Hyena(4, 8, short_taps=0)
