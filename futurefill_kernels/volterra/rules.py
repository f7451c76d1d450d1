"""Product rules of an integral with a kernel, as schemes of the march."""

from __future__ import annotations

import torch

from . import weights
from .kernels import Kernel
from .march import Scheme

METHODS = ("rectangle", "implicit-rectangle", "predictor-corrector", "trapezoid")


def product_rule(method: str, kernel: Kernel, step: float, steps: int) -> Scheme:
    """The scheme of one of METHODS for ``integral of k(t - s) f(s)``. Raises ValueError."""
    moments = kernel.moments(step, steps + 1)
    for moment in moments:
        if moment.ndim != 2 or moment.shape[1] != steps + 1 or not bool(moment.isfinite().all()):
            raise ValueError(
                f"expected moments of the kernel (G, {steps + 1}), finite, "
                f"got {tuple(moment.shape)}"
            )
    left = weights.rectangle(moments)
    if method == "rectangle":
        return Scheme(left[None, :, :-1])
    if method == "implicit-rectangle":
        # the value at a step's end counts: none at 0
        start = torch.zeros(*left.shape, 1, dtype=left.dtype, device=left.device)
        start[:, :, 0] = -left
        return Scheme(left[None, :, 1:], left[:, 0], start)
    w, first = weights.trapezoid(moments)
    taps = w[None, :, 1:]
    if method == "predictor-corrector":
        taps = torch.stack([left[:, :-1], w[:, 1:]])
    return Scheme(taps, w[:, 0], first[..., None])
