"""The parallel forms: convolutions of whole sequences."""

from __future__ import annotations

from torch import Tensor

from .checks import check_conv, refuse_grad, state_dtype
from .state.convolve import fast_conv_range


def causal_conv(u: Tensor, h: Tensor, skip: Tensor | None = None) -> Tensor:
    """Causal convolution of whole sequences, ``y_t = sum_s h_s u_{t-s} + skip u_t``.

    u: (B, D, T). h: (D, L), or (G, L) with channel ``d`` using row ``d // (D/G)``; tap 0 multiplies
    the newest input. skip: (D,) or None. Returns (B, D, T) in u.dtype; float32 arithmetic, float64
    for float64 inputs. Differs from the streamed form by rounding only. Raises ValueError or
    TypeError for shapes, dtypes and devices that do not fit, and for inputs that require grad.
    """
    check_conv(u, h, skip)
    refuse_grad(u=u, h=h, skip=skip)
    dtype = state_dtype(u.dtype)
    y = fast_conv_range(u, h.to(dtype), 0, u.shape[2])
    if skip is not None:
        y += skip.to(dtype)[:, None] * u
    return y.to(u.dtype)


def future_fill(u: Tensor, h: Tensor, n: int) -> Tensor:
    """What ``u`` contributes to the ``n`` outputs that follow it (arXiv 2410.03766, Definition 1).

    u: (B, D, P). h: (D, L) or (G, L). Returns (B, D, n) in u.dtype:
    ``sum_{s=0..P-1} h_{P+t-s} u_s`` for ``0 <= t < n``. Errors as in ``causal_conv``.
    """
    check_conv(u, h, None)
    refuse_grad(u=u, h=h)
    if n < 1:
        raise ValueError(f"expected n >= 1, got {n}")
    dtype = state_dtype(u.dtype)
    return fast_conv_range(u, h.to(dtype), u.shape[2], u.shape[2] + n).to(u.dtype)
