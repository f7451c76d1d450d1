"""STU: spectral transform units, convolutions with fixed spectral filters (arXiv 2312.06837)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from .filters import LongFilter
from .interface import Cache


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept could else not be trained with
@torch.no_grad()
def spectral_filters(length: int, count: int) -> Tensor:
    """Top eigenvectors of the Hankel matrix ``Z_ij = 2 / ((i+j)^3 - (i+j))``, i and j from 1.

    Each is scaled by its eigenvalue to the power 1/4. Returns (count, length) float64, largest
    eigenvalue first, signs such that the entry of largest magnitude is positive. Found by subspace
    iteration, with products by FFT: the eigenvalues fall exponentially, so few rounds are enough.
    """
    if not 1 <= count <= length:
        raise ValueError(f"expected 1 <= count <= length = {length}, got {count}")
    width = min(length, count + 8)
    generator = torch.Generator("cpu").manual_seed(0)
    basis = torch.randn(length, width, dtype=torch.float64, generator=generator, device="cpu")
    for _ in range(6):
        basis, _ = torch.linalg.qr(_hankel_product(basis))
    values, vectors = torch.linalg.eigh(basis.T @ _hankel_product(basis))
    top = values.argsort(descending=True)[:count]
    filters = (basis @ vectors[:, top]).T  # (count, length)
    largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
    # eigenvalues below rounding error may come out negative
    return filters * largest.sign() * values[top].clamp(min=0)[:, None] ** 0.25


def _hankel_product(x: Tensor) -> Tensor:
    """``Z @ x`` for x (L, n): a convolution with the reversed columns."""
    length = len(x)
    s = torch.arange(2, 2 * length + 1, dtype=torch.float64, device=x.device)
    entries = 2 / (s**3 - s)  # (2L - 1,), entry i + j - 2 of anti-diagonals
    n = 1 << (2 * length - 2).bit_length()  # what wraps around stays below entry L - 1
    product = torch.fft.rfft(entries, n) * torch.fft.rfft(x.flip(0).T.contiguous(), n)
    return torch.fft.irfft(product, n)[:, length - 1 : 2 * length - 1].T


class SpectralFilter(LongFilter):
    """One learned combination of the spectral filters per channel: ``taps = mix @ phi``.

    The plus branch convolves with ``phi_s``, the minus branch with ``(-1)^s phi_s``; with shared
    weights they add up to ``2 phi_s`` at even and zero at odd lags, one convolution.
    """

    def __init__(self, channels: int, context_length: int, filters: int) -> None:
        super().__init__(channels, context_length, skip=False)
        self.mix = nn.Parameter(torch.randn(channels, filters) / filters**0.5)

    def taps(self, length: int) -> Tensor:
        """The first ``min(length, L)`` taps, (D, min(length, L))."""
        dtype = torch.promote_types(self.mix.dtype, torch.float32)
        phi = spectral_filters(self.context_length, self.mix.shape[1])[:, :length]
        even = 2 * phi[:, ::2].to(self.mix.device, dtype)
        taps = self.mix.new_zeros(self.channels, phi.shape[1], dtype=dtype)
        taps[:, ::2] = self.mix.to(dtype) @ even
        return taps


class SpectralBank(LongFilter):
    """All ``2K`` spectral filters, plus then minus, each on its own copy of the channels.

    Channel ``k * D + d`` is copy ``k`` of input channel ``d``: ``2K`` groups of ``D`` channels.
    """

    def __init__(self, channels: int, context_length: int, filters: int) -> None:
        super().__init__(2 * filters * channels, context_length, groups=2 * filters, skip=False)

    def taps(self, length: int) -> Tensor:
        """The first ``min(length, L)`` taps, (2K, min(length, L)) float64, on the CPU."""
        phi = spectral_filters(self.context_length, self.groups // 2)[:, :length]
        minus = phi.clone()
        minus[:, 1::2] *= -1
        return torch.cat([phi, minus])


class STU(nn.Module):
    """Spectral transform unit without the autoregressive terms.

    channels: ``D``. context_length: ``L``. filters: ``K``. tensorised: one matrix before the
    convolution and one mix of the K filters per channel (Flash STU, arXiv 2409.10489);
    otherwise all ``2K`` convolutions of every channel, each followed by its own ``D x D`` matrix.
    """

    def __init__(
        self, channels: int, context_length: int, *, filters: int = 24, tensorised: bool = True
    ) -> None:
        super().__init__()
        if not 1 <= filters <= context_length:
            raise ValueError(
                f"expected 1 <= filters <= context_length = {context_length}, got {filters}"
            )
        self.tensorised = tensorised
        self.copies = 1 if tensorised else 2 * filters
        self.filter: LongFilter
        if tensorised:
            self.filter = SpectralFilter(channels, context_length, filters)
        else:
            self.filter = SpectralBank(channels, context_length, filters)
        self.proj = nn.Linear(self.copies * channels, channels, bias=False)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        if self.tensorised:
            return self.filter(self.proj(x).transpose(1, 2), cache).transpose(1, 2)
        u = x.repeat(1, 1, self.copies).transpose(1, 2)  # (B, 2K D, T)
        return self.proj(self.filter(u, cache).transpose(1, 2))
