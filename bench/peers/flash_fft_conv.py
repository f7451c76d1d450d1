"""Recompute with ``flashfftconv``: every token convolves the whole history again."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from . import Part, next_power_of_two, window
from .history import History

SHORTEST = 256  # the smallest sequence it takes


class FlashFFTConvolution(History):
    """Its fused FFT convolution at the power of two that holds the history."""

    name = "recompute with flashfftconv"
    exact = True
    copies = 6

    def __init__(self, h: Tensor, batch: int) -> None:
        from flashfftconv import FlashFFTConv

        self.make = FlashFFTConv
        padding = max(SHORTEST // 2, next_power_of_two(h.shape[1])) - h.shape[1]
        super().__init__(torch.nn.functional.pad(h, (0, padding)), batch)
        self.u = self.u.bfloat16()
        self.convolutions: dict[int, torch.nn.Module] = {}

    @staticmethod
    def unavailable(device: torch.device) -> str | None:
        """Why it cannot run."""
        if importlib.util.find_spec("flashfftconv") is None:
            return "not installed"
        return None if device.type == "cuda" else "needs a CUDA device"

    def load(self, u: Tensor) -> None:
        """u: (t, B, D)."""
        super().load(u)
        self.u[..., len(u) :] = 0
        self.known = len(u)

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        t = self.take(u_t)
        # the transform covers sequence and padding
        n = max(SHORTEST, 2 * next_power_of_two(t + 1))
        if n not in self.convolutions:
            self.convolutions[n] = self.make(n, dtype=torch.bfloat16).to(self.u.device)
        y = self.convolutions[n](self.u[..., : n // 2].contiguous(), self.h[:, : n // 2])
        return y[..., t].float()

    def parts(self, rows: Tensor) -> list[Part]:
        """One token for every FFT length; it stands for all tokens of that length."""
        length, parts, start, stop = len(rows) - 1, [], 0, 128
        while start < length:
            tokens = min(stop, length) - start
            parts.append(window(self, rows, start + tokens // 2, 1, tokens))
            start, stop = stop, 2 * stop
        return parts
