"""What the arguments of every solver are checked with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .implicit import Rate, Solver


def initial_value(
    name: str, value: float | Sequence[float] | Tensor, like: Tensor | None = None
) -> Tensor:
    """A float32 or float64 tensor, float64 unless it is one; like: its shape and dtype."""
    if not isinstance(value, Tensor):
        found = torch.tensor(value, dtype=torch.float64, device="cpu")
        if like is not None:
            found = found.to(like)
            found = found.expand(like.shape) if found.ndim == 0 else found
    else:
        found = value.detach()
    if found.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"expected {name} in float64 or float32, got {found.dtype}")
    if like is not None and (found.shape != like.shape or found.dtype != like.dtype):
        raise ValueError(
            f"expected {name} {tuple(like.shape)} in {like.dtype} like y0, "
            f"got {tuple(found.shape)} in {found.dtype}"
        )
    if 0 in found.shape:
        raise ValueError(f"expected {name} with no empty dimension, got {tuple(found.shape)}")
    return found


def checked_rate(f: Callable[[float, Tensor], Tensor], value: Tensor) -> Rate:
    """f, refused where it returns another shape or dtype than that of y."""
    shape, dtype, device = value.shape, value.dtype, value.device

    def rate(t: float, y: Tensor) -> Tensor:
        found = f(t, y)
        if not isinstance(found, Tensor):
            raise TypeError(f"expected f(t, y) to return a tensor, got {type(found).__name__}")
        if found.shape != shape or found.dtype is not dtype or found.device != device:
            raise ValueError(
                f"expected f(t, y) {tuple(shape)} in {dtype} on {device} like y, "
                f"got {tuple(found.shape)} in {found.dtype} on {found.device}"
            )
        return found

    return rate


def make_solver(
    name: str, jacobian: Rate | None, tolerance: float | None, max_iterations: int,
    corrections: int, dtype: torch.dtype,
) -> Solver:  # fmt: skip
    """The solver of implicit steps: "fixed-point" or "newton"."""
    if corrections < 1:
        raise ValueError(f"expected corrections >= 1, got {corrections}")
    if name not in ("fixed-point", "newton"):
        raise ValueError(f"expected solver to be 'fixed-point' or 'newton', got {name!r}")
    if max_iterations < 1:
        raise ValueError(f"expected max_iterations >= 1, got {max_iterations}")
    if tolerance is None:
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    if not tolerance > 0:
        raise ValueError(f"expected tolerance > 0, got {tolerance}")
    return Solver(name == "newton", jacobian, tolerance, max_iterations, corrections)
