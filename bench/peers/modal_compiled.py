"""The modal recurrence in one C++ loop a token, vectorised over channels."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional as F

from . import compiled
from .modal import Modal


class ModalCompiled(Modal):
    """`Modal` on a CPU, whose step reads state, poles and weights once.

    They lie in tiles of a vector register's channels, (..., tiles, states, 1 or 2, lanes), real
    parts before imaginary ones; rows of a batch share the poles in the first-level cache. The
    result is one buffer that the next step overwrites.
    """

    def __init__(self, poles: Tensor, weights: Tensor, batch: int) -> None:
        super().__init__(poles, weights, batch)
        self.name = self.name.replace("torch", "C++")
        lib = compiled.library()
        packed = (_tiles(x, lib.lanes()) for x in (self.poles, self.weights, self.x))
        self.tiles = tuple(packed)
        self.x = self.tiles[2]
        self.y = torch.empty(batch, len(poles), dtype=torch.float32, device="cpu")
        self.record = compiled.Recurrence(
            *(x.data_ptr() for x in (*self.tiles, self.y)),
            batch, *poles.shape, poles.is_complex(), torch.get_num_threads(),
        )  # fmt: skip
        self.address = ctypes.addressof(self.record)
        self.call = lib.recurrence_step

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        u_t = u_t.contiguous()
        self.call(self.address, u_t.data_ptr())
        return self.y


def _tiles(x: Tensor, lanes: int) -> Tensor:
    """(..., D, s), real or complex -> (..., tiles, s, 1 or 2, lanes)."""
    parts = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x[..., None]
    padded = F.pad(parts, (0, 0, 0, 0, 0, -parts.shape[-3] % lanes))  # (..., D', s, 1 or 2)
    return padded.unflatten(-3, (-1, lanes)).movedim(-3, -1).contiguous()
