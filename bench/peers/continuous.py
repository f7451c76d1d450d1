"""Continuous-FutureFill, the relaxed tiling of Flash Inference (arXiv 2410.12982), in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Part, window
from .dot import dot_step
from .history import History, zeros

BASE = 64


class Continuous(History):
    """At ``t`` the last T inputs fill the next T outputs, T the largest power of two dividing t.

    Blocks below 64 are a dot product; tiles are cyclic real FFTs of length 2 T with the filter's
    spectra kept; buffers are allocated once.
    """

    name = "Continuous-FutureFill, torch.fft"
    exact = True
    copies = 10

    def __init__(self, h: Tensor, batch: int) -> None:
        super().__init__(h, batch)
        self.base = min(BASE, self.length)
        self.pending = zeros(h, batch, self.length)
        self.near = dot_step(self.u, h[:, : self.base].flip(1).contiguous(), self.pending)
        self.spectra = {}
        block = self.base
        while block < self.length:
            self.spectra[block] = torch.fft.rfft(h[:, : 2 * block], 2 * block)
            block *= 2

    def load(self, u: Tensor) -> None:
        """u: (t, B, D). Fires again what filled the blocks that t lies in."""
        super().load(u)
        t = self.position
        self.pending.zero_()
        for block in sorted(self.spectra, reverse=True):
            if t // block % 2 and t % block:  # one that ends at t fires in the next step
                self.fill(t // block * block, block)

    def fill(self, t: int, block: int) -> None:
        """What inputs ``t-T .. t-1`` add to outputs ``t .. t+T-1``."""
        stop = min(t + block, self.length)
        product = torch.fft.rfft(self.u[..., t - block : t], 2 * block) * self.spectra[block]
        filled = torch.fft.irfft(product, 2 * block)
        self.pending[..., t:stop] += filled[..., block : block + stop - t]

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        t, k = self.position, self.position % self.base
        if t and k == 0:
            self.fill(t, t & -t)
        self.position = t + 1
        return self.near(u_t, t, k + 1, self.base - k - 1, t)

    def parts(self, rows: Tensor) -> list[Part]:
        """The first tokens, which repeat in every stretch, and one tile of each larger size."""
        length = len(rows) - 1
        tokens = min(2048, length)
        parts = [window(self, rows, 0, tokens, length / tokens)]
        # a stretch of `tokens` steps contains all smaller tiles and starts with a larger one
        block = tokens
        while block < length:
            fires = len(range(block, length, 2 * block))

            def prepare(block: int = block) -> None:
                self.load(rows[:block])

            def call(block: int = block) -> None:
                self.fill(block, block)

            parts.append(Part(fires, call, block, prepare))
            block *= 2
        return parts
