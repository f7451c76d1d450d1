"""The naive cache: every token one dot product over all inputs before it."""

from __future__ import annotations

from torch import Tensor

from . import Part, windows
from .dot import CompiledDotStep, dot_step
from .history import History, zeros


class Naive(History):
    """Inputs in one preallocated buffer (B, D, L), the filter stored newest lag last."""

    exact = True
    copies = 2

    def __init__(self, h: Tensor, batch: int) -> None:
        super().__init__(h, batch)
        reversed_taps = zeros(h, 1, self.length)[0]
        self.dot = dot_step(self.u, reversed_taps.copy_(h.flip(1)))
        is_compiled = isinstance(self.dot, CompiledDotStep)
        self.name = f"naive dot product, {'C++' if is_compiled else 'torch'}"

    def step(self, u_t: Tensor) -> Tensor:
        """``y_t = sum_s h_s u_{t-s}``; u_t (B, D)."""
        t = self.position
        self.position = t + 1
        return self.dot(u_t, t, t + 1, self.length - t - 1)

    def parts(self, rows: Tensor) -> list[Part]:
        """rows: (N + 1, B, D)."""
        return windows(self, rows, count=4, tokens=max(4, 2**18 // len(rows)))
