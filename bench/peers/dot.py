"""The dot product of the newest inputs with a filter, one call a token."""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch
from torch import Tensor

from . import compiled


class DotStep(Protocol):
    """Stores input t, then sums over the newest ``count`` inputs.

    u: (B, D, L), the inputs so far. h: (D, K), oldest lag first: the ``count`` taps from
    ``h_first`` on meet the inputs ``t + 1 - count .. t``. pending: (B, D, M), whose column ``at``
    is added.
    """

    def __call__(self, u_t: Tensor, t: int, count: int, h_first: int, at: int = 0) -> Tensor:
        """(B, D) -> (B, D)."""


class CompiledDotStep:
    """In C++; the result is one buffer that the next call overwrites."""

    def __init__(self, u: Tensor, h: Tensor, pending: Tensor | None = None) -> None:
        self.y = u.new_empty(u.shape[:2])
        self.tensors = (u, h, pending)  # the record has their addresses
        self.record = compiled.Dot(
            u.data_ptr(), h.data_ptr(), None if pending is None else pending.data_ptr(),
            self.y.data_ptr(), *u.shape[:2], u.stride(1), h.stride(0),
            0 if pending is None else pending.stride(1), torch.get_num_threads(),
        )  # fmt: skip
        self.address = ctypes.addressof(self.record)
        self.call = compiled.library().dot_step

    def __call__(self, u_t: Tensor, t: int, count: int, h_first: int, at: int = 0) -> Tensor:
        """As in `DotStep`."""
        u_t = u_t.contiguous()
        self.call(self.address, u_t.data_ptr(), t, count, h_first, at)
        return self.y


class TorchDotStep:
    """In torch; of product and sum, vecdot and einsum the last is the fastest."""

    def __init__(self, u: Tensor, h: Tensor, pending: Tensor | None = None) -> None:
        self.u, self.h, self.pending = u, h, pending

    def __call__(self, u_t: Tensor, t: int, count: int, h_first: int, at: int = 0) -> Tensor:
        """As in `DotStep`."""
        self.u[..., t] = u_t
        recent = self.u[..., t + 1 - count : t + 1]
        y = torch.einsum("bdk,dk->bd", recent, self.h[:, h_first : h_first + count])
        return y if self.pending is None else y.add_(self.pending[..., at])


def dot_step(u: Tensor, h: Tensor, pending: Tensor | None = None) -> DotStep:
    """C++ where it can be compiled for the device, else torch; strides of rows are free."""
    kind = CompiledDotStep if compiled.is_available(u.device) else TorchDotStep
    return kind(u, h, pending)
