"""A long convolution with an explicit filter, and the parallel form all mixers train with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fft_conv(u: Tensor, h: Tensor) -> Tensor:
    """Causal convolution by FFT, differentiable in both arguments.

    u: (B, D, T). h: (D, L) or (1, D, L), tap 0 multiplies the newest input. Returns (B, D, T), entry
    ``t`` the sum of ``h[d, s] * u[b, d, t - s]`` over ``0 <= s <= t``.
    """
    length = u.shape[-1]
    taps = h[..., :length]
    # any n >= length + taps - 1 works; powers of two are the fastest
    n = 1 << (length + taps.shape[-1] - 2).bit_length()
    product = torch.fft.rfft(u, n) * torch.fft.rfft(taps, n)
    return torch.fft.irfft(product, n)[..., :length]
