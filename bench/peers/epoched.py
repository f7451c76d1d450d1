"""Epoched-FutureFill (arXiv 2410.03766, Algorithm 2) as a competent user writes it in torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import Part, next_power_of_two, window
from .dot import dot_step
from .history import History, zeros


def epoch_length(length: int) -> int:
    """The paper's ``K = sqrt(L log L)``, rounded to a power of two."""
    return 1 << max(0, round(math.log2(math.sqrt(length * max(1.0, math.log2(length))))))


class Epoched(History):
    """Every K tokens one FFT of all inputs fills the next K outputs; between, a short dot product.

    Buffers are allocated once, filter spectra are kept for every FFT length.
    """

    name = "Epoched-FutureFill, torch.fft"
    exact = True
    copies = 12

    def __init__(self, h: Tensor, batch: int) -> None:
        super().__init__(h, batch)
        self.epoch = epoch_length(self.length)
        self.pending = zeros(h, batch, self.epoch)
        near = h[:, : self.epoch].flip(1).contiguous()
        self.near, self.taps = dot_step(self.u, near, self.pending), near.shape[1]
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
        self.position = t + 1
        return self.near(u_t, t, k + 1, self.taps - k - 1, k)

    def parts(self, rows: Tensor) -> list[Part]:
        """The fill of one epoch for every FFT length, and windows of tokens within an epoch."""
        return fill_parts(self, rows) + token_parts(self, rows)


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


def token_parts(peer: Epoched, rows: Tensor, tokens: int = 16) -> list[Part]:
    """Windows of tokens at four places of an epoch in the middle of the stream."""
    length, epoch = len(rows) - 1, min(peer.epoch, len(rows) - 1)
    tokens = max(1, min(tokens, epoch // 4))
    start = length // 2 // epoch * epoch
    parts = []
    for j in range(4):
        offset = min((2 * j + 1) * epoch // 8, length - start - tokens)
        # not at the first token of an epoch, whose fill is a part of its own
        parts.append(window(peer, rows, start + max(1, offset), tokens, length / (4 * tokens)))
    return parts
