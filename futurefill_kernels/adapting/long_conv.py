"""LongConv of safari, and GConv of SGConv: a filter per channel, then a position-wise output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .current import current_cache
from .twin import FilterOf, TapsOf, Twin, cannot, has


def twin_of(operator: Any, taps: int | None) -> Twin | None:
    """The twin of a LongConv or GConv, None for another module. taps: at most that many."""
    name = type(operator).__name__
    taps_of: TapsOf
    if name == "LongConv" and has(operator, "kernel", "D", "output_linear"):
        if isinstance(operator.kernel, Tensor) or not getattr(operator.kernel, "causal", True):
            raise cannot(
                operator, "a kernel twice as long as its input", "it wraps around, so that outputs "
                "depend on later inputs",
            )  # fmt: skip
        if operator.block_fft_conv:
            raise cannot(operator, "block_fft_conv = True", "its transforms may be learned")
        taps_of, length = _long_conv_taps, operator.kernel.kernel.shape[-1]
    elif name == "GConv" and has(operator, "kernel_list", "D", "kernel_norm", "linear"):
        if operator.hyper:
            raise cannot(operator, "hyper_act", "the public code does not apply it")
        if not operator.kernel_norm_initialized:
            raise cannot(operator, "no kernel_norm", "expected a trained one, or one called before")
        scales = operator.num_scales - 1 + operator.init_scale
        taps_of, length = _gconv_taps, operator.kernel_dim * 2**scales
    else:
        return None
    if operator.bidirectional:
        raise cannot(operator, "bidirectional = True", "its outputs depend on later inputs")
    return _LongConvTwin(operator, taps_of, min(length, taps or length))


class _LongConvTwin(Twin):
    precise = ("kernel", "kernel_list")
    activation: nn.Module
    norm: nn.Module
    output_linear: nn.Module

    def __init__(self, operator: Any, taps_of: TapsOf, length: int) -> None:
        super().__init__(operator)
        self.copies, channels = operator.D.shape
        self.transposed = operator.transposed
        self.is_gconv, self.linear = (
            hasattr(operator, "kernel_norm"),
            getattr(operator, "linear", False),
        )
        self.conv = FilterOf(
            self.source(operator), taps_of, self.copies * channels, length, skip_of=_skip_of
        )

    def forward(
        self,
        u: Tensor,
        state: object = None,
        rate: float = 1.0,
        lengths: object = None,
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        """u: (B, D, T), or (B, T, D) where the operator is not transposed. Returns y like u."""
        if rate != 1.0 or lengths is not None:
            raise ValueError(
                f"expected {self.operator_name} to be called without rate and lengths, got "
                f"rate={rate}, lengths={lengths}"
            )
        x = u if self.transposed else u.transpose(1, 2)
        y = self.conv(x.repeat(1, self.copies, 1), current_cache())  # copy c of all channels
        if not self.linear:
            y = self.activation(y)
        y = y if self.transposed else y.transpose(1, 2)
        if self.linear:
            return y, None
        return self.output_linear(self.norm(y) if self.is_gconv else y), None


def _long_conv_taps(operator: Any, length: int) -> Tensor:
    """(copies D, min(length, L)): what the kernel module gives, after its shrinkage."""
    k, _ = operator.kernel(L=length)  # (copies, D, L)
    return k.flatten(0, 1)[:, :length]


def _gconv_taps(operator: Any, length: int) -> Tensor:
    """The same of a GConv, which makes its kernel on the way: from a call on zeros."""
    channels, device = operator.D.shape[1], operator.D.device
    shape = (1, channels, length) if operator.transposed else (1, length, channels)
    with torch.no_grad():
        _, k = operator(torch.zeros(shape, dtype=operator.D.dtype, device=device), True)
    return k.flatten(0, 1)[:, :length]


def _skip_of(operator: Any) -> Tensor:
    skip: Tensor = operator.D
    return skip.flatten()
