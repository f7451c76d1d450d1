"""Softmax attention with a KV cache of the same width, one token at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from . import Part, windows

HEAD = 64


class Attention:
    """``scaled_dot_product_attention`` over all positions so far; projections are not counted.

    Float32 on a CPU, bfloat16 on a GPU, as attention is served there.

    Keys, values and queries are fixed multiples of the input, so that no matrix product of the
    layer is timed.
    """

    name = "attention with KV cache"
    exact = False
    copies = 2

    def __init__(self, h: Tensor, batch: int) -> None:
        channels, length = h.shape
        self.head = HEAD if channels % HEAD == 0 else channels
        heads = channels // self.head
        dtype = torch.bfloat16 if h.is_cuda else h.dtype
        self.keys = h.new_zeros(batch, heads, length, self.head, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.position = self.known = 0

    def split(self, u: Tensor) -> Tensor:
        """(t, B, D) -> (B, heads, t, head)."""
        return u.unflatten(-1, (-1, self.head)).permute(1, 2, 0, 3)

    def load(self, u: Tensor) -> None:
        """u: (t, B, D)."""
        if len(u) > self.known:
            new = slice(self.known, len(u))
            self.keys[:, :, new] = self.values[:, :, new] = self.split(u[new])
            self.known = len(u)
        self.position = len(u)

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        t = self.position
        x = self.split(u_t[None]).to(self.keys.dtype)  # (B, heads, 1, head)
        self.keys[:, :, t : t + 1] = x
        self.values[:, :, t : t + 1] = x
        self.position = t + 1
        keys, values = self.keys[:, :, : t + 1], self.values[:, :, : t + 1]
        return F.scaled_dot_product_attention(x, keys, values).flatten(1)

    def parts(self, rows: Tensor) -> list[Part]:
        """rows: (N + 1, B, D)."""
        return windows(self, rows, count=4, tokens=max(4, 2**18 // len(rows)))

    def expected(self, rows: Tensor, t: int, channels: int = 32) -> Tensor:
        """Output t of the first head's channels in float64: (B, channels)."""
        u = rows[: t + 1, :, : self.head].permute(1, 0, 2)  # (B, t+1, head)
        u = u.to(self.keys.dtype).double()
        weights = torch.softmax(u @ u[:, -1, :, None] / self.head**0.5, dim=1)
        return (weights * u).sum(1)[:, :channels]
