"""What a block adds to the slots through torch.fft, on data whose time is contiguous: a transform
of 2n real points, a product, and back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..level import Level
from ..state.tensors import StreamState
from .gpu_firing import Firing, inputs_at
from .gpu_passes import at_once

#: multiply(z, layers, channels): spectra z (layers, R, width, n + 1) of the newest blocks become
#: those of a firing's outputs.
Multiply = Callable[[Tensor, slice, slice], None]


def fill_by(
    state: StreamState, level: Level, firing: Firing, first: int, last: int, multiply: Multiply
) -> None:
    """Add a firing's outputs, of channels first .. last-1, whole units of 32; at most 256 MiB of
    spectra at a time.
    """
    n, block, source = level.transform, level.block, firing.source()
    layers, n_rows = len(state.ring), len(firing.rows)
    most, width = at_once(n, n_rows, layers, last - first)
    for layer in range(0, layers, most):
        here = slice(layer, min(layer + most, layers))
        ring, opened = state.ring[here], state.open_block[here]
        for channel in range(first, last, width):
            channels = slice(channel, channel + width)
            u = inputs_at(source, ring, channels)
            x = u.new_zeros(len(u), n_rows, width, 2 * n)
            x[..., :block] = u.mT
            del u
            z = torch.fft.rfft(x)
            del x
            multiply(z, here, channels)
            filled = torch.fft.irfft(z, 2 * n, norm="forward")[..., n : n + block]
            del z
            firing.add(ring, opened, channels, filled.mT)
