"""Filters distilled to modal recurrences: balanced truncation of the Hankel matrix, least squares.

The s largest singular vectors of a filter's Hankel matrix span the observability space of its
balanced truncation (Ho and Kalman; ERA); the shift of that space gives the poles, and the weights
follow by least squares over all taps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..harness import shapes

_OVERSAMPLING, _ROUNDS = 8, 3


def to_modes(h: Tensor, states: int) -> tuple[Tensor, Tensor]:
    """Poles and weights (D, n) complex64 with ``h_t ~ Re sum_j c_j p_j^t``; h (D, L) real.

    Of s states a complex pair is two, and one mode: ``s / 2 <= n <= s``, as many as the channel
    with the most real poles needs. Poles outside the unit circle are moved onto it.
    """
    taps = h.double()
    basis = _hankel_basis(taps, states)  # (D, n, s)
    shift = torch.linalg.lstsq(basis[:, :-1], basis[:, 1:], driver="gelsd").solution
    poles = torch.linalg.eigvals(shift)  # (D, s)
    poles = poles / poles.abs().clamp(min=1)
    powers = _powers(poles, taps.shape[1])  # (D, s, L)
    weights = torch.empty_like(poles)
    for d in range(len(taps)):
        rows = powers[d].T
        target = taps[d].to(rows.dtype)[:, None]
        weights[d] = torch.linalg.lstsq(rows, target, driver="gelsd").solution[:, 0]
    return _one_of_each_pair(poles, weights)


def taps_of(poles: Tensor, weights: Tensor, length: int) -> Tensor:
    """The filter (D, length) float32 that the modes stand for."""
    powers = _powers(poles.to(torch.complex128), length)
    return torch.einsum("ds,dst->dt", weights.to(torch.complex128), powers).real.float()


def _one_of_each_pair(poles: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(D, s) -> (D, n): a pair's two terms have the same real part. Zero weights fill up."""
    upper = poles.imag > 0
    kept = upper | (poles.imag == 0)
    weights = torch.where(kept, torch.where(upper, 2 * weights, weights), 0)
    first = kept.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    first = first[:, : int(kept.sum(1).max())]
    return poles.gather(1, first).to(torch.complex64), weights.gather(1, first).to(torch.complex64)


def _powers(poles: Tensor, length: int) -> Tensor:
    """(D, s) -> (D, s, length): 1, p, p^2, ..."""
    steps = torch.arange(length, dtype=torch.float64, device=poles.device)
    return poles[..., None] ** steps


def _hankel_basis(h: Tensor, states: int) -> Tensor:
    """Leading left singular vectors of ``H_ij = h_{i+j}`` by subspace iteration with FFT products.

    h: (D, L) float64. Returns (D, L // 2, states).
    """
    size = h.shape[1] // 2
    width = min(size, states + _OVERSAMPLING)
    n = 1 << (2 * h.shape[1] - 1).bit_length()
    spectrum = torch.fft.rfft(h[:, : 2 * size - 1], n)[..., None]

    def product(x: Tensor) -> Tensor:  # H is symmetric: correlate the taps with each column
        y = torch.fft.irfft(spectrum * torch.fft.rfft(x.flip(1), n, dim=1), n, dim=1)
        return y[:, size - 1 : 2 * size - 1]

    basis = shapes.randn(len(h), size, width, seed=0, dtype=torch.float64, device=h.device)
    for _ in range(_ROUNDS):
        basis, _ = torch.linalg.qr(product(basis))
    vectors, _, _ = torch.linalg.svd(product(basis), full_matrices=False)
    return vectors[..., :states]
