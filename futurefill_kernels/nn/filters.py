"""Filters as modules: where taps come from, and the convolution with them in both modes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..state.convolve import reached_by
from .interface import Cache


def fft_conv(u: Tensor, h: Tensor) -> Tensor:
    """Causal convolution by FFT, differentiable in both arguments.

    u: (B, D, T). h: (G, L), channel ``d`` uses row ``d // (D/G)``, tap 0 multiplies the newest
    input.
    Returns (B, D, T), entry ``t`` the sum of ``h[s] * u[t - s]`` over ``0 <= s <= t``. An input
    that is NaN or infinite makes NaN of the outputs that its taps reach, of its own row and
    channel, and of no others: padding on the right never matters.
    """
    if u.device.type == "cpu" and not torch.compiler.is_compiling():
        y = _by_fft(u, h)
        if _known_finite(y):
            return y
    # transforms spread it over everything; without a look, which on a GPU would be waited for
    bad = ~u.isfinite()
    reached = reached_by(bad, h.shape[1], 0, u.shape[-1])
    return _by_fft(u.masked_fill(bad, 0), h).masked_fill(reached, torch.nan)


def _by_fft(u: Tensor, h: Tensor) -> Tensor:
    """`fft_conv` of finite inputs."""
    length = u.shape[-1]
    taps = h[:, None, :length]  # (G, 1, min(L, T))
    # any n >= length + taps - 1 avoids wrapping; powers of two are the fastest
    n = 1 << (length + taps.shape[-1] - 2).bit_length()
    grouped = u.unflatten(1, (len(h), -1))  # (B, G, D/G, T)
    product = torch.fft.rfft(grouped, n) * torch.fft.rfft(taps, n)
    return torch.fft.irfft(product, n)[..., :length].flatten(1, 2)


def _known_finite(y: Tensor) -> bool:
    """Whether a look at the sum shows that all is finite."""
    try:
        return bool(y.detach().sum().isfinite())
    except RuntimeError:  # inside torch.func.vmap there are no single values
        return False


class LongFilter(nn.Module):
    """Base of everything that convolves over the whole context; a mixer holds one or several.

    A subclass says in ``taps`` what its filter is. ``forward`` convolves: in parallel, or through a
    `DecodingCache`, which finds these modules by walking the model. Taps, sums and gates are
    float32 where weights or inputs are of half precision, and inside autocast: position 16,384 does
    not exist in bfloat16. So buffers, from which a subclass may compute its taps, keep their dtype
    when that of the parameters changes. What follows from sizes alone is computed in ``taps``: a
    buffer that is not saved would be lost between ``meta`` and ``load_state_dict``.

    channels: ``D``. groups: filter rows ``G``, a divisor of ``D``. context_length: taps ``L``.
    skip: (D,) parameter that multiplies the input itself, or None.
    """

    skip: nn.Parameter | None

    def __init__(
        self, channels: int, context_length: int, *, groups: int | None = None, skip: bool = True
    ) -> None:
        super().__init__()
        self.channels, self.context_length = channels, context_length
        self.groups = channels if groups is None else groups
        for name, value in (("channels", channels), ("context_length", context_length)):
            if value < 1:
                raise ValueError(f"expected {name} >= 1, got {value}")
        if self.groups < 1 or channels % self.groups:
            raise ValueError(f"expected groups to divide channels = {channels}, got {groups}")
        self.skip = nn.Parameter(torch.ones(channels)) if skip else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LongFilter:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self._buffers[name]
            if buffer is not None and after is not None and after.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(after.device)
        return self

    def taps(self, length: int) -> Tensor:
        """The first ``min(length, L)`` taps (G, ...); tap 0 multiplies the newest input."""
        raise TypeError(f"{type(self).__name__} must define taps(length)")

    def skip_weights(self) -> Tensor | None:
        """(D,), what multiplies the input itself; None for nothing."""
        return self.skip

    def taps_on(self, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The same on a device and in a dtype, computed outside autocast."""
        known = torch.amp.is_autocast_available(device.type)  # not for meta
        with torch.autocast(device.type, enabled=False) if known else nullcontext():
            return self.taps(length).to(device, dtype)

    def forward(
        self,
        u: Tensor,
        cache: Cache | None = None,
        *,
        pre: Tensor | None = None,
        post: Tensor | None = None,
    ) -> Tensor:
        """``post * (conv(pre * u) + skip * pre * u)``.

        u, pre, post: (B, D, T). Returns (B, D, T). Without a cache parallel and differentiable.
        """
        if cache is not None:
            return cache.long_conv(self, u, pre, post)
        dtype = torch.promote_types(u.dtype, torch.float32)
        x = u.to(dtype) if pre is None else pre.to(dtype) * u
        y = fft_conv(x, self.taps_on(x.shape[-1], x.device, dtype))
        skip = self.skip_weights()
        if skip is not None:
            y = y + skip[:, None] * x
        return (y if post is None else post * y).to(u.dtype)
