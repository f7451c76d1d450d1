"""Random values, and views of tensors that differ in everything but their values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

KINDS = ("normal", "decay", "sparse", "ones")
VIEWS = ("plain", "strided", "transposed", "offset", "negated", "expanded")


@dataclass(frozen=True)
class Filters:
    """What a cache is given: taps (G, L) of every layer, skip (layers, D) or None.

    kept_in: the dtype that the cache rounds taps to.
    """

    taps: list[Tensor]
    skip: Tensor | None
    channels: int
    kept_in: torch.dtype

    def seen(self) -> tuple[list[np.ndarray], np.ndarray | None]:
        """In float64: taps (D, L) of every layer, and skip."""
        expand = self.channels // self.taps[0].shape[0]
        rounded = [h.to(self.kept_in).double().repeat_interleave(expand, 0) for h in self.taps]
        skip = None if self.skip is None else self.skip.double().numpy()
        return [h.numpy() for h in rounded], skip


def filters(draw: np.random.Generator, kind: str, groups: int, taps: int) -> np.ndarray:
    """(G, L) float64, of L2 norm about 1."""
    h = draw.standard_normal((groups, taps))
    if kind == "decay":
        h *= np.exp(-np.arange(taps) * draw.uniform(0.01, 2))
    elif kind == "sparse":
        h *= draw.random((groups, taps)) < 2 / taps
    elif kind == "ones":
        h = np.abs(h)
    return h / max(float(np.sqrt((h**2).sum(1).mean())), 1e-3)


def inputs(draw: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Normal numbers of a dtype."""
    return torch.from_numpy(draw.standard_normal(shape)).to(dtype)


def seen_as(x: Tensor, view: str) -> Tensor:
    """A tensor of the same values in other memory; expanded: those of its first row."""
    if view == "strided":
        return torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]
    if view == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if view == "offset":
        return torch.nn.functional.pad(x, (3, 2), value=torch.nan)[..., 3:-2]
    if view == "negated" and x.dtype in (torch.float32, torch.float64):
        return torch.complex(x, -x).conj().imag
    if view == "expanded":
        return x[:1].expand_as(x)
    return x
