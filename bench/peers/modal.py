"""Modal recurrence: a filter that is a sum of exponentials decodes in O(states) per token."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Part, window


class Modal:
    """``x = lambda x + u``, ``y = Re(c x)`` per channel with diagonal ``lambda``.

    poles, weights: (D, s), real or complex; the filter is ``h_t = Re sum_j c_j lambda_j^t``.
    """

    exact = False

    def __init__(self, poles: Tensor, weights: Tensor, batch: int) -> None:
        self.poles, self.weights = poles.contiguous(), weights.contiguous()
        self.x = poles.new_zeros(batch, *poles.shape)
        kind = "complex" if poles.is_complex() else "real"
        self.states = poles.shape[1]
        self.name = f"modal recurrence, {kind}, torch"
        # Re(c x) as one real dot product over (re, im) pairs
        self.real_weights = _pairs(self.weights.conj())

    @classmethod
    def random(
        cls,
        channels: int,
        states: int,
        batch: int,
        complex_poles: bool,
        device: torch.device | str = "cpu",
    ) -> Modal:
        """Poles with decay lengths from 2 to 20,000 tokens; ``sum |h| <= 1``."""
        generator = torch.Generator().manual_seed(states)
        decay = torch.rand(channels, states, generator=generator) * 9.2 + 0.7
        radius = torch.exp(-torch.exp(-decay))
        weights = torch.randn(channels, states, generator=generator) * (1 - radius) / states
        if complex_poles:
            angle = torch.rand(channels, states, generator=generator) * torch.pi
            radius, weights = torch.polar(radius, angle), weights + 0j
        return cls(radius.to(device), weights.to(device), batch)

    def load(self, u: Tensor) -> None:
        """u: (t, B, D), taken one after the other."""
        self.x.zero_()
        for u_t in u:
            self.step(u_t)

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        self.x.mul_(self.poles).add_(u_t[..., None])
        return torch.linalg.vecdot(_pairs(self.x), self.real_weights)

    def parts(self, rows: Tensor) -> list[Part]:
        """Every token costs the same: the first ones stand for all."""
        length = len(rows) - 1
        tokens = min(max(64, 2**22 // self.x.numel()), length)
        return [window(self, rows, 0, tokens, length / tokens)]

    def expected(self, rows: Tensor, t: int, channels: int = 32) -> Tensor:
        """Output t in float64 from the filter written out: (B, channels)."""
        poles = self.poles[:channels].to(torch.complex128)
        weights = self.weights[:channels].to(torch.complex128)
        lags = torch.arange(t, -1, -1, dtype=torch.float64, device=rows.device)
        h = torch.stack(
            [(c * p ** lags[:, None]).sum(1).real for p, c in zip(poles, weights, strict=True)]
        )
        return torch.einsum("tbd,dt->bd", rows[: t + 1, :, :channels].double(), h)


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()).flatten(-2) if x.is_complex() else x
