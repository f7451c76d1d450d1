"""Recompute with ``scipy.signal.oaconvolve``: every token convolves the whole history again."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from . import Part, windows
from .history import History


class OverlapAdd(History):
    """SciPy's overlap-add convolution along time; only the newest output is used."""

    name = "recompute with scipy oaconvolve"
    exact = True
    copies = 12

    def __init__(self, h: Tensor, batch: int) -> None:
        from scipy.signal import oaconvolve

        self.convolve = oaconvolve
        super().__init__(h, batch)
        self.taps = h.numpy()[None]

    @staticmethod
    def unavailable(device: torch.device) -> str | None:
        """Why it cannot run."""
        if device.type != "cpu":
            return "runs on the CPU"
        return None if importlib.util.find_spec("scipy") else "not installed"

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        t = self.take(u_t)
        u = self.u[..., : t + 1].numpy()
        return torch.from_numpy(self.convolve(u, self.taps[..., : t + 1], axes=-1)[..., t])

    def parts(self, rows: Tensor) -> list[Part]:
        """rows: (N + 1, B, D). A token takes seconds: three of them."""
        return windows(self, rows, count=3, tokens=1)
