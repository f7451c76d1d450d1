"""Hyena: long convolutions with implicit filters between gates (arXiv 2302.10866)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .filters import LongFilter
from .interface import Cache
from .short_conv import ShortConv


class ImplicitFilter(LongFilter):
    """A small sine network from lag to filter tap, under an exponential window.

    channels, context_length: as in `LongFilter`. hidden: width of the network. bands: sine and
    cosine features, geometric in frequency so that near lags are resolved as well as far ones.
    sine_frequency: multiplies the first layer, the Hyena paper's ``omega``.
    """

    def __init__(
        self,
        channels: int,
        context_length: int,
        *,
        hidden: int = 64,
        bands: int = 16,
        sine_frequency: float = 4.0,
    ) -> None:
        super().__init__(channels, context_length)
        self.frequency, self.bands = sine_frequency, bands
        self.input = nn.Linear(2 * bands + 1, hidden)
        self.hidden = nn.Linear(hidden, hidden)
        self.output = nn.Linear(hidden, channels, bias=False)
        # decay lengths from 4 tokens to half the context: every channel starts with its own range
        longest = math.log(max(context_length / 2, 4.0))
        self.log_decay_length = nn.Parameter(torch.linspace(math.log(4.0), longest, channels))

    def taps(self, length: int) -> Tensor:
        """The first ``min(length, L)`` taps, (D, min(length, L))."""
        dtype = torch.promote_types(self.log_decay_length.dtype, torch.float32)
        features = self._lag_features(length).to(dtype)  # (T, 2 bands + 1)
        x = torch.sin(self.frequency * _linear(self.input, features))
        x = torch.sin(_linear(self.hidden, x))
        lags = torch.arange(len(features), device=x.device, dtype=dtype)
        log_length = self.log_decay_length.to(dtype)[:, None]  # (D, 1)
        # -log_length / 2: all windows have the same energy whatever their length
        exponent = torch.addcmul(-log_length / 2, torch.exp(-log_length), lags, value=-1)
        # a window ends before subnormal numbers, which processors are slow with
        smallest = math.log(torch.finfo(dtype).tiny) + 16
        window = torch.exp(F.threshold(exponent, smallest, -math.inf))
        return F.linear(self.output.weight.to(dtype), x) * window

    def _lag_features(self, length: int) -> Tensor:
        """(T, 2 bands + 1): log of the lag, then sines and cosines from period ``2 L`` to 4.

        float64, since the arguments of the fastest are as large as the context.
        """
        context, device = self.context_length, self.log_decay_length.device
        lag = torch.arange(min(length, context), dtype=torch.float64, device=device)[:, None]
        slowest, fastest = math.log(math.pi / context), math.log(math.pi / 2)
        rates = torch.linspace(slowest, fastest, self.bands, dtype=torch.float64, device=device)
        angles = lag * rates.exp()
        log_lag = torch.log1p(lag) / math.log1p(context)
        return torch.cat([log_lag, torch.sin(angles), torch.cos(angles)], dim=1)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The linear map in the dtype of x, whatever that of the weights."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)


class Hyena(nn.Module):
    """Hyena mixer of a given order.

    A linear map gives ``order + 1`` projections ``x_0 .. x_{order-1}, v``, each through a causal
    depthwise convolution of ``short_taps``; then ``v = conv_i(x_i * v)`` for ``i = order-1 .. 1``
    and the output is a linear map of ``x_0 * v``. Each ``conv_i`` is a long convolution with an
    implicit filter and a skip weight per channel.
    """

    def __init__(
        self,
        channels: int,
        context_length: int,
        *,
        order: int = 2,
        short_taps: int = 3,
        filter_hidden: int = 64,
    ) -> None:
        super().__init__()
        if order < 2:
            raise ValueError(f"expected order >= 2, got {order}")
        self.order = order
        self.in_proj = nn.Linear(channels, (order + 1) * channels)
        self.short_conv = ShortConv((order + 1) * channels, short_taps)
        self.filters = nn.ModuleList(
            ImplicitFilter(channels, context_length, hidden=filter_hidden) for _ in range(order - 1)
        )
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        projections = self.short_conv(self.in_proj(x).transpose(1, 2), cache)
        output_gate, *gates, v = projections.chunk(self.order + 1, dim=1)  # (B, D, T) each
        last = len(self.filters) - 1
        for i, conv in enumerate(self.filters):
            v = conv(v, cache, pre=gates[last - i], post=output_gate if i == last else None)
        return self.out_proj(v.transpose(1, 2))
