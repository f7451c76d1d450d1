"""What stands in for an operator of public code: the same weights, convolutions with a cache."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..nn.filters import LongFilter
from ..nn.interface import Cache
from ..nn.short_conv import ShortConv

#: (module, length) -> the first min(length, L) taps (G, ...), tap 0 multiplies the newest input
TapsOf = Callable[[nn.Module, int], Tensor]


class Twin(nn.Module):
    """Base of the twins: has the operator's children, parameters and buffers under their names.

    What filters are computed from stays float32 where the rest becomes half precision: buffers, and
    the children that ``precise`` names. limit: positions of a sequence that the operator itself
    takes, or None for any number.
    """

    precise: tuple[str, ...] = ()

    def __init__(self, operator: nn.Module, limit: int | None = None) -> None:
        super().__init__()
        self.operator_name, self.limit = type(operator).__name__, limit
        saved = operator.state_dict().keys()
        # not named_children() and the like, which give what has two names once
        self._modules.update(operator._modules)
        self._parameters.update(operator._parameters)
        for name, buffer in operator._buffers.items():
            self.register_buffer(name, buffer, persistent=name in saved)
        self.training = operator.training

    def source(self, operator: nn.Module) -> nn.Module:
        """The operator with the twin's tensors: what moves one moves the other."""
        source = copy.copy(operator)
        source._parameters, source._buffers = self._parameters, self._buffers
        return source

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Twin:
        def precisely(x: Tensor) -> Tensor:
            y = fn(x)
            lost = y.is_floating_point() and y.dtype.itemsize < min(x.dtype.itemsize, 4)
            return x.to(y.device) if lost else y

        before = dict(self._buffers)
        super()._apply(fn, recurse=False)
        for name, buffer in before.items():
            if buffer is not None:
                self._buffers[name] = precisely(buffer)
        if recurse:
            for name, child in self._modules.items():
                if child is not None:
                    child._apply(precisely if name in self.precise else fn)
        return self


class FilterOf(LongFilter):
    """A long filter that another module computes.

    source: that module. It is no child, so its weights keep their names. taps_of: its taps, at most
    ``context_length`` of them. skip_of: source -> (D,), what multiplies the input itself.
    """

    def __init__(
        self,
        source: nn.Module,
        taps_of: TapsOf,
        channels: int,
        context_length: int,
        *,
        groups: int | None = None,
        skip_of: Callable[[nn.Module], Tensor] | None = None,
    ) -> None:
        super().__init__(channels, context_length, groups=groups, skip=False)
        self._source, self._taps_of, self._skip_of = (source,), taps_of, skip_of

    def taps(self, length: int) -> Tensor:
        """The first ``min(length, L)`` taps, (G, min(length, L))."""
        length = min(length, self.context_length)
        return self._taps_of(self._source[0], length)[:, :length]

    def skip_weights(self) -> Tensor | None:
        """(D,), or None."""
        return None if self._skip_of is None else self._skip_of(self._source[0])


class ShortConvOf(ShortConv):
    """The causal depthwise convolution of a Conv1d that is padded on both sides and cut."""

    def __init__(self, conv: nn.Conv1d) -> None:
        nn.Module.__init__(self)
        self._source = (conv,)

    def taps(self) -> Tensor:
        """(C, k), tap 0 multiplies the newest input."""
        return self._source[0].weight[:, 0].flip(1)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, C, T). Returns (B, C, T)."""
        y, bias = super().forward(x, cache), self._source[0].bias
        return y if bias is None else y + bias[:, None].to(y.dtype)


def cannot(operator: nn.Module, option: str, why: str) -> ValueError:
    """The error for an operator with an option that does not decode token by token."""
    return ValueError(f"{type(operator).__name__} with {option} cannot be adapted: {why}")


def has(module: nn.Module, *names: str) -> bool:
    """Whether a module has all these attributes."""
    return all(hasattr(module, name) for name in names)


def is_half(tensor: Tensor) -> bool:
    """Whether a tensor is bfloat16 or float16."""
    return tensor.dtype in (torch.bfloat16, torch.float16)
