"""HyenaOperator of HyenaDNA and safari: short filter, gates, implicit filters of any order."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from .current import current_cache
from .twin import FilterOf, ShortConvOf, Twin, cannot, has, is_half

#: options of safari's operator that mix heads, blocks or channels inside, and their plain values
_PLAIN = {
    "num_heads": 1, "num_blocks": 1, "inner_factor": 1, "outer_mixing": False,
    "post_order_ffn": False, "jit_filter": False,
}  # fmt: skip


def twin_of(operator: Any, taps: int | None) -> Twin | None:
    """The twin of a HyenaOperator, None for another module. taps: at most that many."""
    if type(operator).__name__ != "HyenaOperator" or not has(
        operator, "in_proj", "out_proj", "short_filter", "filter_fn", "order", "l_max", "d_model"
    ):
        return None
    for option, plain in _PLAIN.items():
        value = getattr(operator, option, plain)
        if value != plain:
            raise cannot(operator, f"{option} = {value}", f"expected {plain}")
    if getattr(operator.filter_fn, "bidirectional", False):
        raise cannot(operator, "bidirectional = True", "its outputs depend on later inputs")
    if any(is_half(p) for p in operator.filter_fn.parameters()):
        raise cannot(
            operator, "a filter in half precision", "its positions are rounded; adapt the float32 "
            "model and cast what adapt returns, which keeps filters in float32",
        )  # fmt: skip
    return _HyenaTwin(operator, taps)


class _HyenaTwin(Twin):
    precise = ("filter_fn",)
    in_proj: nn.Module
    out_proj: nn.Module
    activation: nn.Module

    def __init__(self, operator: Any, taps: int | None) -> None:
        super().__init__(operator, limit=operator.l_max)
        self.order, self.width = operator.order, operator.d_model
        self.returns_state = bool(getattr(operator, "return_state", False))
        self.short = ShortConvOf(operator.short_filter)
        length = min(operator.l_max, taps or operator.l_max)
        # safari with heads numbers a channel's filters side by side, the others one after the other
        side_by_side = hasattr(operator, "num_heads")
        self.convs = nn.ModuleList(
            FilterOf(
                operator.filter_fn,
                partial(_taps_of, index=index, order=self.order, side_by_side=side_by_side),
                self.width,
                length,
                skip_of=partial(_skip_of, index=index, order=self.order, side_by_side=side_by_side),
            )
            for index in range(self.order - 1)
        )

    def forward(self, u: Tensor, *args: object, **kwargs: object) -> Any:
        """u: (B, T, D). Returns (B, T, D)."""
        cache = current_cache()
        projected = self.short(self.in_proj(u).transpose(1, 2), cache)
        output_gate, *gates, v = projected.split(self.width, dim=1)
        last = len(gates) - 1
        for index, conv in enumerate(self.convs):
            post = output_gate if index == last else None
            v = conv(v, cache, pre=gates[last - index], post=post)
        y = v.transpose(1, 2)
        if "activation" in self._modules:
            y = self.activation(y)
        y = self.out_proj(y)
        return (y, None) if self.returns_state else y


def _taps_of(filter_fn: Any, length: int, *, index: int, order: int, side_by_side: bool) -> Tensor:
    """(D, length) of convolution ``index`` of order - 1."""
    h = filter_fn.filter(length)
    h = (h[0] if isinstance(h, tuple) else h).squeeze(0).T  # (D (order - 1), length)
    return _select(h, index, order, side_by_side)


def _skip_of(filter_fn: Any, *, index: int, order: int, side_by_side: bool) -> Tensor:
    """(D,). safari leaves the bias away where use_bias says so; HyenaDNA's own file does not."""
    bias: Tensor = filter_fn.bias
    unused = side_by_side and not getattr(filter_fn, "use_bias", True)
    return _select(0 * bias if unused else bias, index, order, side_by_side)


def _select(rows: Tensor, index: int, order: int, side_by_side: bool) -> Tensor:
    if side_by_side:
        return rows[index :: order - 1]
    return rows.unflatten(0, (order - 1, -1))[index]
