"""The parallel forms: whole sequences by transforms, a few channels at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _extension
from .checks import check_conv, refuse_grad

_WORKSPACE_BYTES = 64 << 20
_CONV_BLOCK = 8192  # 1 MiB per vector of channels, about a second-level cache


def fft_length(n: int) -> int:
    """Smallest ``2^a 3^b 5^c >= n`` with few odd factors, where real FFTs are fast."""
    power = 1 << (n - 1).bit_length()
    return min(m for m in (power, power // 8 * 5, power // 4 * 3, power // 16 * 15) if m >= n)


def conv_range(u: Tensor, h: Tensor, start: int, stop: int) -> Tensor:
    """Outputs ``start .. stop-1`` of the causal convolution of ``u``, which is zero after its end.

    u: (B, D, P). h: (G, L) of the arithmetic's dtype, G divides D. Returns (B, D, stop - start) in
    h.dtype. Extra workspace is bounded by a few channels' transforms.
    """
    batch, channels, length = u.shape
    groups, per_group = h.shape[0], channels // h.shape[0]
    y = torch.empty(batch, channels, stop - start, dtype=h.dtype, device=u.device)
    taps = min(h.shape[1], stop)
    # a wrapped term has index >= n: with n >= length + taps - 1 there is none, and terms that wrap
    # below `start` are not read
    n = fft_length(max(length + taps - 1 - start, stop, length, taps))
    rows = batch * per_group + 1
    step = max(1, _WORKSPACE_BYTES // (n * 3 * h.element_size() * rows))
    grouped = u.reshape(batch, groups, per_group, length)
    out = y.view(batch, groups, per_group, stop - start)
    for g in range(0, groups, step):
        spectrum = torch.fft.rfft(h[g : g + step, :taps], n)[:, None]
        inputs = torch.fft.rfft(grouped[:, g : g + step].to(h.dtype), n)
        out[:, g : g + step] = torch.fft.irfft(inputs * spectrum, n)[..., start:stop]
    return y


def conv_block(length: int) -> int:
    """Block of the compiled convolution: the whole sequence if it is short, at most 16 blocks."""
    power = 1 << (length - 1).bit_length()
    return max(min(power, _CONV_BLOCK), power // 16)


def fast_conv_range(u: Tensor, h: Tensor, start: int, stop: int) -> Tensor:
    """``conv_range`` with the engine's transforms for float32 on a CPU, else by torch.fft.

    Float64 stays on torch.fft: it is what float32 results are checked against. Extra workspace of a
    thread: the transforms of one vector of channels, 8 bytes per lane and position, and as much for
    its taps; nothing grows with the channels or rows.
    """
    compiled = u.device.type == "cpu" and _extension.cpu_unavailable_reason() is None
    if not compiled or h.dtype != torch.float32:
        return conv_range(u, h, start, stop)
    if start >= u.shape[2] + h.shape[1] - 1:
        return torch.zeros(*u.shape[:2], stop - start, dtype=h.dtype)
    u = u.to(h.dtype)
    u = u if u.stride(2) == 1 else u.contiguous()
    h = h if h.stride(1) == 1 else h.contiguous()
    y = torch.empty(*u.shape[:2], stop - start, dtype=h.dtype)
    block = conv_block(max(u.shape[2], min(h.shape[1], stop)))
    torch.ops.futurefill_kernels.offline_conv(u, h, y, start, stop, block)
    return y


def causal_conv(u: Tensor, h: Tensor, skip: Tensor | None = None) -> Tensor:
    """Causal convolution of whole sequences, ``y_t = sum_s h_s u_{t-s} + skip u_t``.

    u: (B, D, T). h: (D, L), or (G, L) with channel ``d`` using row ``d // (D/G)``; tap 0 multiplies
    the newest input. skip: (D,) or None. Returns (B, D, T) in u.dtype; float32 arithmetic, float64
    for float64 inputs. Differs from the streamed form by rounding only. Raises ValueError or
    TypeError for shapes, dtypes and devices that do not fit, and for inputs that require grad.
    """
    check_conv(u, h, skip)
    refuse_grad(u=u, h=h, skip=skip)
    accumulate = torch.float64 if u.dtype == torch.float64 else torch.float32
    y = fast_conv_range(u, h.to(accumulate), 0, u.shape[2])
    if skip is not None:
        y += skip.to(accumulate)[:, None] * u
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
    accumulate = torch.float64 if u.dtype == torch.float64 else torch.float32
    return fast_conv_range(u, h.to(accumulate), u.shape[2], u.shape[2] + n).to(u.dtype)
