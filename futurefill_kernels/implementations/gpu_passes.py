"""Fills in three passes over a workspace, of blocks that one kernel cannot hold: what their
implementations share.

The first pass makes nodes of a block, the second transforms each, the third puts them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..planning.gpu_cost import WORKSPACE_BYTES
from ..state.layout import CHANNEL_UNIT

#: Most nodes that the first pass makes of a block, values of a thread.
MOST_NODES = 64


class Part(NamedTuple):
    """What one use of the workspace does: ``layers`` from ``layer`` on, ``channels`` from
    ``channel`` on. scratch: float32, a complex value for every point, row, layer and channel.
    """

    layer: int
    layers: int
    channel: int
    channels: int
    scratch: Tensor


def at_once(transform: int, rows: int, layers: int, channels: int) -> tuple[int, int]:
    """Layers and channels that share the workspace, or one layer and unit of channels that take
    more; the channels divide all, so that every part of them is as wide.
    """
    units = max(WORKSPACE_BYTES // (8 * transform * rows * CHANNEL_UNIT), 1)
    width = -(-channels // CHANNEL_UNIT)
    if units < width:
        return 1, max(d for d in range(1, units + 1) if width % d == 0) * CHANNEL_UNIT
    return min(units // width, layers), width * CHANNEL_UNIT


def parts(
    transform: int, rows: int, layers: int, first: int, last: int, device: torch.device
) -> Iterator[Part]:
    """Of all layers and of channels first .. last-1, ``first`` a multiple of 32; whole units. The
    workspace is reused.
    """
    last = -(-last // CHANNEL_UNIT) * CHANNEL_UNIT
    most, width = at_once(transform, rows, layers, last - first)
    each = rows * transform * 2 * width
    scratch = torch.empty(most * each, dtype=torch.float32, device=device)
    for layer in range(0, layers, most):
        here = min(most, layers - layer)
        for channel in range(first, last, width):
            yield Part(layer, here, channel, width, scratch[: here * each])


@lru_cache(maxsize=32)
def twist_table(nodes: int, length: int, quarters: int, device: torch.device) -> Tensor:
    """(nodes length, 2) float32: cosine and sine of the twist of coefficient k of node s at
    ``s length + k``.

    Node s is a polynomial modulo ``x^length - exp(2 pi i a)``, ``a = (1/4 + s with its bits
    reversed) / nodes``; the twist makes it one modulo ``x^length - exp(2 pi i quarters / 4)``.
    """
    index = torch.arange(nodes, dtype=torch.int64, device="cpu")
    reversed_ = torch.zeros_like(index)
    for bit in range(nodes.bit_length() - 1):
        reversed_ = 2 * reversed_ + (index >> bit & 1)
    turned = 1 + 4 * reversed_ - quarters * nodes
    k = torch.arange(length, dtype=torch.int64, device="cpu")
    full = 4 * nodes * length
    turns = (turned[:, None] * k % full).double().flatten() * (2 * torch.pi / full)
    return torch.stack([turns.cos(), turns.sin()], -1).float().to(device)
