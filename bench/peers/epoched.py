"""Epoched-FutureFill (arXiv 2410.03766, Algorithm 2) as a competent user writes it in torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import Part, next_power_of_two, window
from .history import History


def epoch_length(length: int) -> int:
    """The paper's ``K = sqrt(L log L)``, rounded to a power of two."""
    return 1 << max(0, round(math.log2(math.sqrt(length * max(1.0, math.log2(length))))))


class Epoched(History):
    """Every K tokens one FFT of all inputs fills the next K outputs; between, a short dot product.

    Buffers are allocated once, filter spectra are kept for every FFT length.
    """

    name = "Epoched-FutureFill, torch"
    exact = True
    copies = 12

    def __init__(self, h: Tensor, batch: int) -> None:
        super().__init__(h, batch)
        self.epoch = epoch_length(self.length)
        self.near = h[:, : self.epoch].flip(1).contiguous()
        self.pending = h.new_zeros(batch, len(h), self.epoch)
        self.spectra: dict[int, Tensor] = {}
        self.filled = 0

    def load(self, u: Tensor) -> None:
        """u: (t, B, D)."""
        super().load(u)
        self.fill_once(len(u) // self.epoch * self.epoch)

    def spectrum(self, n: int) -> Tensor:
        """The filter's transform of length n, made once."""
        if n not in self.spectra:
            self.spectra[n] = torch.fft.rfft(self.h[:, :n], n)
        return self.spectra[n]

    def fill_once(self, t: int) -> None:
        """`fill` unless the last one was the same."""
        if t != self.filled:
            self.fill(t)

    def fill(self, t: int) -> None:
        """What inputs ``0 .. t-1`` add to outputs ``t .. t+K-1``."""
        self.filled = t
        if t == 0:
            self.pending.zero_()
            return
        stop = min(t + self.epoch, self.length)
        n = next_power_of_two(t + self.epoch)
        product = torch.fft.rfft(self.u[..., :t], n) * self.spectrum(n)
        self.pending[..., : stop - t] = torch.fft.irfft(product, n)[..., t:stop]

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        t, k = self.position, self.position % self.epoch
        if k == 0:
            self.fill(t)
        self.take(u_t)
        recent = self.u[..., t - k : t + 1]
        near = torch.einsum("bdk,dk->bd", recent, self.near[:, self.near.shape[1] - k - 1 :])
        return near.add_(self.pending[..., k])

    def parts(self, rows: Tensor) -> list[Part]:
        """The fill of one epoch for every FFT length, and windows of tokens within an epoch."""
        return fill_parts(self, rows) + token_parts(self, rows, windows_per_stream=1)


def fill_parts(peer: Epoched, rows: Tensor) -> list[Part]:
    """Fills in the middle of each FFT length's epochs; they stand for all of them."""
    length, epoch = len(rows) - 1, peer.epoch
    epochs: dict[int, list[int]] = {}
    for t in range(epoch, length, epoch):
        epochs.setdefault(next_power_of_two(t + epoch), []).append(t)
    parts = []
    for starts in epochs.values():
        t = starts[len(starts) // 2]

        def prepare(t: int = t) -> None:
            peer.load(rows[:t])

        def call(t: int = t) -> None:
            peer.fill(t)

        parts.append(Part(len(starts), call, t, prepare))
    return parts


def token_parts(
    peer: Epoched, rows: Tensor, windows_per_stream: int, tokens: int = 16
) -> list[Part]:
    """Windows of tokens at four places of an epoch, in epochs spread over the stream."""
    length, epoch = len(rows) - 1, min(peer.epoch, len(rows) - 1)
    tokens = max(1, min(tokens, epoch // 4))
    parts = []
    for i in range(windows_per_stream):
        start = int((2 * i + 1) * length / (2 * windows_per_stream)) // epoch * epoch
        for j in range(4):
            offset = min((2 * j + 1) * epoch // 8, length - start - tokens)
            # not at the first token of an epoch, whose fill is a part of its own
            begin = start + max(1, offset)
            weight = length / (4 * windows_per_stream * tokens)
            parts.append(window(peer, rows, begin, tokens, weight))
    return parts
