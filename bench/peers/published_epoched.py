"""Epoched-FutureFill with the habits of published research code: batch 1, no reuse of anything.

Described from its behaviour: the sequence is grown by concatenation at every token, and every fill
transforms the filter again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import Part
from .epoched import Epoched, fill_parts, token_parts


class PublishedEpoched(Epoched):
    """Same algorithm and epoch as `Epoched`, which preallocates and keeps spectra."""

    name = "Epoched-FutureFill, research habits"
    replayed = False

    def __init__(self, h: Tensor, batch: int) -> None:
        if batch != 1:
            raise ValueError("batch 1 only")
        super().__init__(h, batch)
        self.u = self.u[..., :0].clone()
        self.loaded = self.u

    def load(self, u: Tensor) -> None:
        """u: (t, 1, D)."""
        self.position = len(u)
        if len(u) > self.loaded.shape[-1]:
            self.loaded = u.permute(1, 2, 0).contiguous()
        self.u = self.loaded[..., : len(u)]
        self.fill_once(len(u) // self.epoch * self.epoch)

    def spectrum(self, n: int) -> Tensor:
        """The filter's transform of length n, made every time."""
        return torch.fft.rfft(self.h[:, :n], n)

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (1, D)."""
        t, k = self.position, self.position % self.epoch
        if k == 0:
            self.fill(t)
        self.u = torch.cat([self.u, u_t[..., None]], dim=-1)
        self.position = t + 1
        recent = self.u[..., t - k : t + 1]
        return (recent * self.h[:, : k + 1].flip(1)).sum(-1) + self.pending[..., k]

    def parts(self, rows: Tensor) -> list[Part]:
        """As `Epoched.parts`; the copy grows with the position, so tokens in four epochs."""
        tokens = max(2, min(16, 2**17 // len(rows)))
        return fill_parts(self, rows) + token_parts(self, rows, 4, tokens)
