"""The naive cache: every token one dot product over all inputs before it, vectorised."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Part, windows
from .history import History


class Naive(History):
    """Inputs in one preallocated buffer (B, D, L), the filter stored newest lag last."""

    name = "naive dot product, torch"
    exact = True
    copies = 2

    def __init__(self, h: Tensor, batch: int) -> None:
        super().__init__(h, batch)
        self.reversed = h.flip(1).contiguous()

    def step(self, u_t: Tensor) -> Tensor:
        """``y_t = sum_s h_s u_{t-s}``; u_t (B, D)."""
        t = self.take(u_t)
        # of the three torch forms (product and sum, vecdot, einsum) einsum is the fastest
        h = self.reversed[:, self.length - t - 1 :]
        return torch.einsum("bdt,dt->bd", self.u[..., : t + 1], h)

    def parts(self, rows: Tensor) -> list[Part]:
        """rows: (N + 1, B, D)."""
        return windows(self, rows, count=4, tokens=max(4, 2**18 // len(rows)))
