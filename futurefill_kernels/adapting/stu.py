"""STU of the FutureFill, SpectraLDS and flash-stu code: fixed spectral filters, two branches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .current import current_cache
from .twin import FilterOf, Twin, cannot, has

#: attributes of STUs with autoregressive terms
_AUTOREGRESSIVE = ("m_u", "m_y", "M_u", "M_y", "use_ar_u", "use_ar_y")


def twin_of(operator: Any, taps: int | None) -> Twin | None:
    """The twin of an STU or MiniSTU, None for another module. taps: at most that many."""
    if type(operator).__name__ not in ("STU", "MiniSTU"):
        return None
    tensorised = has(operator, "M_inputs", "M_filters")
    if not (tensorised or hasattr(operator, "M_phi_plus")):
        return None
    if _filters_of(operator) is None:
        return None
    config = getattr(operator, "config", None)
    for owner in (operator, config):
        for name in _AUTOREGRESSIVE:
            term = getattr(owner, name, None)
            if isinstance(term, Tensor) or term:
                raise cannot(operator, name, "autoregressive terms are no part of a convolution")
    for name in ("d_in_tile", "d_out_tile"):
        if getattr(config, name, None) is not None:
            raise cannot(operator, name, "expected no tiles")
    return (_TensorisedTwin if tensorised else _FullTwin)(operator, taps)


class _StuTwin(Twin):
    def __init__(self, operator: Any, taps: int | None) -> None:
        phi = _filters_of(operator)
        assert phi is not None
        super().__init__(operator, limit=len(phi))
        self.plus_only = bool(operator.use_hankel_L)
        if "phi" not in self._buffers:  # some keep it as a plain attribute
            self.register_buffer("phi", phi, persistent=False)
        self.length = min(len(phi), taps or len(phi))


class _TensorisedTwin(_StuTwin):
    """Channels are mixed before the convolution, filters per channel."""

    M_inputs: Tensor
    M_filters: Tensor

    def __init__(self, operator: Any, taps: int | None) -> None:
        super().__init__(operator, taps)
        self.conv = FilterOf(self, _mixed_taps, self.M_filters.shape[1], self.length)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        u = (x @ self.M_inputs).transpose(1, 2)
        return self.conv(u, current_cache()).transpose(1, 2)


class _FullTwin(_StuTwin):
    """Every filter on every channel, each with a matrix of its own."""

    M_phi_plus: Tensor
    M_phi_minus: Tensor
    mlp: nn.Module

    def __init__(self, operator: Any, taps: int | None) -> None:
        super().__init__(operator, taps)
        filters, channels, _ = self.M_phi_plus.shape
        self.copies = filters if self.plus_only else 2 * filters
        self.conv = FilterOf(
            self, _bank_taps, self.copies * channels, self.length, groups=self.copies
        )

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        x = x.to(self.M_phi_plus.dtype)
        u = x.transpose(1, 2).repeat(1, self.copies, 1)  # (B, copies D, T), a filter's together
        y = self.conv(u, current_cache()).transpose(1, 2)
        weight = self.M_phi_plus
        if not self.plus_only:
            weight = torch.cat([weight, self.M_phi_minus])
        y = y @ weight.flatten(0, 1)
        return y if self._modules.get("mlp") is None else self.mlp(y)


def _filters_of(operator: Any) -> Tensor | None:
    """(L, K), or None where the module has none."""
    for name in ("phi", "stu_filters"):
        phi = getattr(operator, name, None)
        if isinstance(phi, Tensor) and phi.ndim == 2:
            return phi
    return None


def _branches(twin: Any, h: Tensor) -> Tensor:
    """The plus branch, and the minus branch, whose taps alternate in sign. h: (rows, length)."""
    if twin.plus_only:
        return h
    minus = h.clone()
    minus[:, 1::2] *= -1
    return torch.cat([h, minus])


def _mixed_taps(twin: Any, length: int) -> Tensor:
    """(D, length): both branches share their weights, so they add up."""
    dtype = torch.promote_types(twin.M_filters.dtype, torch.float32)
    h = (twin.phi[:length].to(dtype) @ twin.M_filters.to(dtype)).T
    return h if twin.plus_only else _branches(twin, h).unflatten(0, (2, -1)).sum(0)


def _bank_taps(twin: Any, length: int) -> Tensor:
    """(K or 2K, length)."""
    dtype = torch.promote_types(twin.phi.dtype, torch.float32)
    return _branches(twin, twin.phi[:length].to(dtype).T)
