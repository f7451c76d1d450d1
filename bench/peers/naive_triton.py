"""The naive cache in one Triton kernel: a dot product over all inputs, split over time."""

from __future__ import annotations

from torch import Tensor

from . import Part, windows


class NaiveTriton:
    """Inputs (L, B, D) and filters (L, D), channels next to each other."""

    name = "naive dot product, Triton"
    exact = True
    copies = 4

    def __init__(self, h: Tensor, batch: int) -> None:
        from .triton_kernels import dot

        self.dot, self.h = dot, h.T.contiguous()
        self.u = h.new_zeros(h.shape[1], batch, h.shape[0])
        self.position = self.known = 0

    def load(self, u: Tensor) -> None:
        """u: (t, B, D)."""
        if len(u) > self.known:
            self.u[self.known : len(u)] = u[self.known :]
            self.known = len(u)
        self.position = len(u)

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        t = self.position
        self.u[t] = u_t
        self.position = t + 1
        return self.dot(self.u, self.h, t)

    def parts(self, rows: Tensor) -> list[Part]:
        """rows: (N + 1, B, D)."""
        return windows(self, rows, count=4, tokens=max(4, 2**18 // len(rows)))
