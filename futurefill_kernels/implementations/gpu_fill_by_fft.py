"""Future fill of a level whose transforms torch.fft does, for blocks that one kernel cannot hold.

The products between the transforms are a kernel of the implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ..level import Level
from .gpu_firing import Firing, inputs_at

_WORKSPACE_BYTES = 256 << 20

#: products(values, rows, layer, first_channel): values (R, n, width, 2) float32, spectra of the
#: newest blocks of a layer in the order of the FFT, become the sums of products of the level. rows
#: (R,) int64; those of -1 keep nothing and their values are not used.
Products = Callable[[Tensor, Tensor, int, int], None]


@lru_cache(maxsize=32)
def twist(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n, 1) of the angles ``pi k / 2n``."""
    angles = torch.arange(n, dtype=torch.float64, device="cpu") * (torch.pi / 2 / n)
    cos, sin = (f(angles).float()[:, None].to(device) for f in (torch.cos, torch.sin))
    return cos, sin


def channels_at_once(n: int, rows: int) -> int:
    """Whose transforms of n points share the workspace."""
    return max(32, _WORKSPACE_BYTES // (8 * n * rows) // 32 * 32)


def fill_by_fft(
    ring: Tensor,
    open_block: Tensor,
    positions: Tensor,
    rows: Tensor | None,
    level: Level,
    first: int,
    last: int,
    products: Products,
) -> None:
    """Add one level's fill of channels first .. last-1 to the ring (layers, B, 1, N, C) and, of one
    in 16 bits, to the open block (layers, B, 1, T_0 or 0, C).

    A layer and at most 256 MiB of spectra at a time. Rows may be at different positions, which are
    read on the device; those that are -1 or where the level does not fire stay as they are.
    Source: docs/algorithm.md, equation 3.
    """
    block, n = level.block, level.transform
    cos, sin = twist(n, ring.device)
    firing = Firing.of(level, ring.shape[3], positions, rows)
    source = firing.source()
    firing_rows = firing.rows.where(firing.own > 0, -1)
    width = channels_at_once(n, len(firing.rows))
    for layer in range(len(ring)):
        values, opening = ring[layer : layer + 1], open_block[layer : layer + 1]
        for begin in range(first, last, width):
            here = slice(begin, min(begin + width, last))
            u = inputs_at(source, values, here)[0]
            z = torch.complex(u * cos[:block], u * sin[:block])
            z = torch.fft.ifft(z, n, dim=1, norm="forward").contiguous()
            products(torch.view_as_real(z), firing_rows, layer, begin)
            z = torch.fft.fft(z, dim=1)[:, :block]
            filled = z.imag * cos[:block] - z.real * sin[:block]
            firing.add(values, opening, here, filled[None])
