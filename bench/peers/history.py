"""The inputs so far in one preallocated buffer, as most peers keep them."""

from __future__ import annotations

from torch import Tensor

#: Values between rows: rows a power of two apart would share few lines of a cache.
_GAP = 16


def zeros(h: Tensor, batch: int, length: int) -> Tensor:
    """(B, D, length) for filters h (D, L)."""
    return h.new_zeros(batch, len(h), length + _GAP)[..., :length]


class History:
    """u: (B, D, L). A peer is always loaded from one sequence, so what is there stays valid."""

    def __init__(self, h: Tensor, batch: int) -> None:
        self.h, self.length = h, h.shape[1]
        self.u = zeros(h, batch, self.length)
        self.position = self.known = 0

    def load(self, u: Tensor) -> None:
        """As if the inputs u (t, B, D) had been taken."""
        if len(u) > self.known:
            self.u[..., self.known : len(u)] = u[self.known :].permute(1, 2, 0)
            self.known = len(u)
        self.position = len(u)

    def take(self, u_t: Tensor) -> int:
        """Store the next input (B, D); returns its position."""
        t = self.position
        self.u[..., t] = u_t
        self.position = t + 1
        return t
