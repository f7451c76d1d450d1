"""No state at all: every token convolves the whole history again with torch.fft."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Part, next_power_of_two, window
from .history import History


class Recompute(History):
    """FFT lengths are powers of two and the filter's spectra are kept for each."""

    name = "recompute with torch.fft"
    exact = True
    copies = 12

    def __init__(self, h: Tensor, batch: int) -> None:
        super().__init__(h, batch)
        self.spectra: dict[int, Tensor] = {}

    def load(self, u: Tensor) -> None:
        """u: (t, B, D)."""
        super().load(u)
        self.spectrum(2 * next_power_of_two(len(u) + 1))

    def spectrum(self, n: int) -> Tensor:
        """The filter's transform of length n, made once."""
        if n not in self.spectra:
            self.spectra[n] = torch.fft.rfft(self.h[:, : n // 2], n)
        return self.spectra[n]

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        t = self.take(u_t)
        n = 2 * next_power_of_two(t + 1)
        product = torch.fft.rfft(self.u[..., : t + 1], n) * self.spectrum(n)
        return torch.fft.irfft(product, n)[..., t]

    def parts(self, rows: Tensor) -> list[Part]:
        """One token for every FFT length; it stands for all tokens of that length."""
        length, parts = len(rows) - 1, []
        stop = 64
        start = 0
        while start < length:
            tokens = min(stop, length) - start
            parts.append(window(self, rows, start + tokens // 2, 1, tokens))
            start, stop = stop, 2 * stop
        return parts
