"""Filter spectra for the future fill: values of ``z(x)`` at the roots of ``x^n = i`` in tree order.

A fill of block size ``T`` needs outputs ``T .. 2T-1`` of the product of ``T`` inputs and ``2T``
taps. Modulo ``x^(2n) + 1`` (``n >= T`` a power of two) wrapped terms land on discarded outputs, and
with entry ``k`` as the real and entry ``k + n`` as the imaginary part that ring is the complex
polynomials modulo ``x^n - i`` (docs/algorithm.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..level import Level
from ..plan import Plan
from .layout import Layout, tile_filters

#: arrange(spectra, level, h, layout): bring one level of ``tiled_spectra`` into another order. h:
#: (G, L) taps, as far as the plan reads them.
Arrange = Callable[[Tensor, Level, Tensor, Layout], None]


@lru_cache(maxsize=64)
def _tree_angles(n: int) -> tuple[float, ...]:
    """Angles, in turns, of the roots of ``x^n = i`` in the order of a binary reduction tree."""
    angles = [0.25]
    while len(angles) < n:
        angles = [child for a in angles for child in (a / 2, a / 2 + 0.5)]
    return tuple(angles)


def tree_order(n: int) -> Tensor:
    """(n,) int64: index ``k`` of every tree-ordered root ``exp(2 pi i (k + 1/4) / n)``."""
    order = [round(a * n - 0.25) % n for a in _tree_angles(n)]
    return torch.tensor(order, dtype=torch.int64, device="cpu")


def twisted_transform(z: Tensor) -> Tensor:
    """Values of complex polynomials ``z`` (..., n) at the tree-ordered roots of ``x^n = i``."""
    n = z.shape[-1]
    k = torch.arange(n, dtype=torch.float64, device=z.device)
    twist = torch.polar(torch.ones_like(k), k * (torch.pi / 2 / n)).to(z.dtype)
    # fft evaluates at exp(-2 pi i k / n); conjugating twice gives the positive sign
    values = torch.fft.ifft(z * twist, norm="forward")
    return values[..., tree_order(n).to(z.device)]


def inverse_twisted_transform(values: Tensor) -> Tensor:
    """Polynomials (..., n) from their values at the tree-ordered roots of ``x^n = i``."""
    n = values.shape[-1]
    k = torch.arange(n, dtype=torch.float64, device=values.device)
    twist = torch.polar(torch.ones_like(k), -k * (torch.pi / 2 / n)).to(values.dtype)
    natural = torch.empty_like(values)
    natural[..., tree_order(n).to(values.device)] = values
    return torch.fft.fft(natural, norm="forward") * twist


def block_spectra(h: Tensor, level: Level) -> Tensor:
    """Spectra ``H_1 .. H_K`` of one level, scaled by ``1/n`` for an unscaled inverse.

    ``H_k`` holds taps ``s + (k-1) T .. s + (k+1) T - 1``, ``s`` how late the level's outputs are.

    h: (G, L) real taps, tap 0 first, already cut to the plan's filter length.
    Returns (G, K, n) complex128.
    """
    n, packed = level.transform, packed_taps(h, level)
    return twisted_transform(torch.complex(packed[..., :n], packed[..., n:])) / n


def packed_taps(h: Tensor, level: Level) -> Tensor:
    """(G, K, 2n) float64, the taps of ``H_1 .. H_K`` so that a fill's outputs come from n on."""
    block, n = level.block, level.transform
    taps = h.new_zeros(h.shape[0], (level.n_spectra + 1) * block, dtype=torch.float64)
    h = h[:, level.late :]
    used = min(h.shape[1], taps.shape[1])
    taps[:, :used] = h[:, :used]
    packed = taps.new_zeros(h.shape[0], level.n_spectra, 2 * n)
    packed[..., n - block : n + block] = taps.unfold(1, 2 * block, block)
    return packed


def filter_spectra(h: Tensor, plan: Plan, dtype: torch.dtype) -> Tensor:
    """Filter spectra of the levels that hold them, in time-major rows, made in float64 on a GPU
    where h is there, else on the CPU.

    h: (G, L) taps. Returns (sum K_l n_l, 2, G) of ``dtype``; index 0 of the 2 is the real part.
    """
    device = h.device if h.device.type == "cuda" else torch.device("cpu")
    h = h.detach()[:, : plan.filter_length].to(device)
    out = torch.empty(plan.spectra_rows, 2, h.shape[0], dtype=dtype, device=h.device)
    for level in plan.levels:
        if level.made:
            continue
        start = level.spectra_offset
        # 32 MiB of complex128 at a time
        group = max(1, (1 << 21) // (level.n_spectra * level.transform))
        for g in range(0, h.shape[0], group):
            spectra = block_spectra(h[g : g + group], level).flatten(1)
            stop = start + spectra.shape[1]
            out[start:stop, 0, g : g + group] = spectra.real.T
            out[start:stop, 1, g : g + group] = spectra.imag.T
    return out


def tiled_spectra(h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> Tensor:
    """``filter_spectra`` as a layout stores them. h: (layout.groups, L).

    Returns (filter tiles, rows, 2, filter_lanes).
    """
    return tile_filters(filter_spectra(h, plan, dtype), layout)


def arranged_spectra(
    h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype, arrangements: Sequence[Arrange]
) -> Tensor:
    """``tiled_spectra``, each level in the order of its own arrangement."""
    spectra = tiled_spectra(h, plan, layout, dtype)
    for level, arrange in zip(plan.levels, arrangements, strict=True):
        if not level.made:
            arrange(spectra, level, h[:, : plan.filter_length], layout)
    return spectra
