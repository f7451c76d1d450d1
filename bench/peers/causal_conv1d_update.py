"""``causal_conv1d_update``: the fused step of a convolution with at most four taps."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from . import Part, window

WIDTH = 4


class CausalConv1d:
    """Not the same function: the first four taps only, the price of a step that has no history."""

    name = "causal_conv1d_update, 4 taps"
    exact = False

    def __init__(self, h: Tensor, batch: int) -> None:
        from causal_conv1d import causal_conv1d_update

        self.update = causal_conv1d_update
        self.h = h[:, :WIDTH]
        self.weight = self.h.flip(1).contiguous()
        self.state = h.new_zeros(batch, len(h), WIDTH)

    @staticmethod
    def unavailable(device: torch.device) -> str | None:
        """Why it cannot run."""
        if importlib.util.find_spec("causal_conv1d") is None:
            return "not installed"
        return None if device.type == "cuda" else "needs a CUDA device"

    def load(self, u: Tensor) -> None:
        """u: (t, B, D)."""
        self.state.zero_()
        recent = u[-WIDTH:].permute(1, 2, 0)
        self.state[..., WIDTH - recent.shape[-1] :] = recent

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        return self.update(u_t, self.state, self.weight)

    def parts(self, rows: Tensor) -> list[Part]:
        """Every token costs the same: the first ones stand for all."""
        length = len(rows) - 1
        tokens = min(256, length)
        return [window(self, rows, 0, tokens, length / tokens)]

    def expected(self, rows: Tensor, t: int, channels: int = 32) -> Tensor:
        """Output t in float64: (B, channels)."""
        taps = min(t + 1, WIDTH)
        u = rows[t + 1 - taps : t + 1, :, :channels].double()
        return torch.einsum("tbd,dt->bd", u, self.h[:channels, :taps].flip(1).double())
