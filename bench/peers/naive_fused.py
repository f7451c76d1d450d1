"""The naive cache in our own fused kernel: a plan with a single block."""

from __future__ import annotations

import torch
from torch import Tensor

import futurefill_kernels as ff

from . import Part, windows


class NaiveFused:
    """`FutureFillCache` whose short-range convolution spans the whole stream."""

    name = "naive dot product, ours fused"
    exact = True
    replayed = False  # the cache counts positions on the host
    copies = 8

    def __init__(self, h: Tensor, batch: int) -> None:
        length = h.shape[1]
        self.cache = ff.FutureFillCache(
            h, batch, length, plan=ff.Plan(length, (length,)), rollback=None
        )
        # no row waits for a prompt
        self.empty = self.cache.state_dict()
        self.empty["in_prompt"] = torch.zeros_like(self.empty["in_prompt"])
        self.position = 0

    def load(self, u: Tensor) -> None:
        """u: (t, B, D)."""
        cache = self.cache
        if len(u) > self.position:
            fill = u.new_zeros(1, cache.batch_size, cache.channels, cache.max_new_tokens)
            inputs = u.permute(1, 2, 0)[None]
            positions = torch.full((cache.batch_size,), len(u), dtype=torch.int64, device="cpu")
            taken = {"inputs": inputs, "prompt_fill": fill, "positions": positions}
            cache.load_state_dict({**self.empty, **taken})
        cache.crop(len(u))
        self.position = len(u)

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        y_t = self.cache.step(u_t)
        self.position += 1
        return y_t

    def parts(self, rows: Tensor) -> list[Part]:
        """rows: (N + 1, B, D)."""
        tokens = max(4, 2**18 // len(rows))
        # last window first: going back is cheaper than taking in
        return windows(self, rows, count=4, tokens=tokens)[::-1]
