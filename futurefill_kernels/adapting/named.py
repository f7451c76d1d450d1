"""Convolutions of one's own, named with a function that gives their taps."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import causal_conv
from .current import current_cache
from .twin import FilterOf, TapsOf, Twin

#: taps of a filter that ends by itself
_LONGEST = 1 << 22
#: largest difference of the module and the convolution with its taps, relative to the output
_TOLERANCE = 5e-2


@torch.no_grad()
def watch(
    model: nn.Module, modules: Collection[nn.Module], example: Tensor
) -> dict[nn.Module, tuple[Any, Any]]:
    """First input and output of modules in a call of the model."""
    seen: dict[nn.Module, tuple[Any, Any]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen.setdefault(module, (inputs[0] if inputs else None, output))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(note).remove)
        model(example)
    return seen


def twin_of(module: nn.Module, taps_of: TapsOf, taps: int | None, seen: tuple[Any, Any]) -> Twin:
    """The twin of a module that convolves as taps_of says.

    seen: an input and its output, from which layout and channels are read; ValueError where they
    are no causal convolution with these taps.
    """
    x, y = seen
    name = type(module).__name__
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim == 3 and x.shape == y.shape):
        raise ValueError(f"expected {name} to take and return one tensor of three dimensions")
    found = []
    for channels_last in (True, False):
        u, out = (x.transpose(1, 2), y.transpose(1, 2)) if channels_last else (x, y)
        with torch.no_grad():
            h = _checked(taps_of(module, u.shape[2]), name, u.shape[2])
            if u.shape[1] % len(h):
                continue
            h = h.to(u.device, torch.promote_types(u.dtype, torch.float32))
            error = (causal_conv(u, h) - out).abs().max() / out.abs().max()
        found.append(float(error))
        if error < _TOLERANCE:
            length = _length(lambda n: taps_of(module, n).shape[1], taps, name)
            return _NamedTwin(module, taps_of, u.shape[1], length, len(h), channels_last)
    raise ValueError(
        f"{name} is not the causal convolution with its taps (tap 0 multiplies the newest input, a "
        f"skip is part of it): input {tuple(x.shape)}, taps {tuple(h.shape)}, the outputs differ "
        f"by {min(found, default=float('inf')):.1e} of the largest"
    )


def _checked(h: object, name: str, length: int) -> Tensor:
    if not isinstance(h, Tensor) or h.ndim != 2 or h.shape[1] > length:
        shape = tuple(h.shape) if isinstance(h, Tensor) else type(h).__name__
        raise ValueError(f"expected taps of {name} (G, at most {length}), got {shape}")
    return h


def _length(count: Callable[[int], int], taps: int | None, name: str) -> int:
    """Taps of the filter, at most ``taps``. count: length -> how many there are up to it."""
    if taps is not None:
        return count(taps)
    length = 64
    while length <= _LONGEST:
        found = count(length)
        if found < length:
            return found
        length *= 2
    raise ValueError(f"the taps of {name} do not end before {_LONGEST}; expected taps=")


class _NamedTwin(Twin):
    def __init__(
        self,
        module: nn.Module,
        taps_of: TapsOf,
        channels: int,
        length: int,
        groups: int,
        channels_last: bool,
    ) -> None:
        super().__init__(module)
        self.precise = tuple(name for name, _ in module.named_children())
        self.channels_last = channels_last
        self.conv = FilterOf(self.source(module), taps_of, channels, length, groups=groups)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """x: (B, T, D) or (B, D, T), as the module was called. Returns y like x."""
        if self.channels_last:
            return self.conv(x.transpose(1, 2), current_cache()).transpose(1, 2)
        return self.conv(x, current_cache())
