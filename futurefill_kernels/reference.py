"""The specification: every algorithm of this package from its equation, in plain torch.

Slow and obviously right, on any device and in float64 where asked. The fast implementations are
tested against this file, and this file against ``numpy.convolve``. Indices are 0-based; tap 0
multiplies the newest input; filter row ``d // (D / G)`` belongs to channel ``d``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .plan import Plan

NextInput = Callable[[Tensor], Tensor]


def expand_filters(h: Tensor, channels: int) -> Tensor:
    """Filter rows (G, L) repeated for the channels that share them -> (D, L)."""
    return h.repeat_interleave(channels // h.shape[0], dim=0)


def causal_conv(u: Tensor, h: Tensor, skip: Tensor | None = None) -> Tensor:
    """``y_t = sum_{s=0..t} h_s u_{t-s} + skip u_t``: the sum as it is written.

    u: (B, D, T). h: (D, L) or (G, L). skip: (D,). Returns (B, D, T).
    """
    y = torch.zeros_like(u)
    h = expand_filters(h, u.shape[1])
    for s in range(min(u.shape[2], h.shape[1])):
        y[..., s:] += h[:, s, None] * u[..., : u.shape[2] - s]
    return y if skip is None else y + skip[:, None] * u


def future_fill(u: Tensor, h: Tensor, n: int) -> Tensor:
    """Contribution of ``u`` to the ``n`` outputs that follow it (arXiv 2410.03766, Definition 1).

    ``fill_t = sum_{s=0..P-1} h_{P+t-s} u_s`` for ``0 <= t < n``.

    u: (B, D, P). h: (D, L) or (G, L). Returns (B, D, n).
    """
    longer = torch.nn.functional.pad(u, (0, n))
    return causal_conv(longer, h)[..., u.shape[2] :]


def _stream(
    u_0: Tensor, length: int, next_input: NextInput, output: Callable[[Tensor, int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Feed ``u_{t+1} = next_input(y_t)``; output(u, t) gives y_t from the inputs so far."""
    u = torch.zeros(*u_0.shape, length, dtype=u_0.dtype, device=u_0.device)
    y = torch.zeros_like(u)
    u[..., 0] = u_0
    for t in range(length):
        y[..., t] = output(u, t)
        if t + 1 < length:
            u[..., t + 1] = next_input(y[..., t])
    return u, y


def online_conv(
    u_0: Tensor, h: Tensor, length: int, next_input: NextInput
) -> tuple[Tensor, Tensor]:
    """Naive online convolution: one dot product over all inputs so far for every token.

    u_0: (B, D), the first input. h: (D, L) or (G, L). next_input: (B, D) -> (B, D).
    Returns inputs and outputs, both (B, D, length).
    """
    h = expand_filters(h, u_0.shape[1])

    def output(u: Tensor, t: int) -> Tensor:
        taps = min(t + 1, h.shape[1])
        return (u[..., t + 1 - taps : t + 1].flip(-1) * h[:, :taps]).sum(-1)

    return _stream(u_0, length, next_input, output)


def mixed_radix_conv(
    u_0: Tensor, h: Tensor, plan: Plan, next_input: NextInput
) -> tuple[Tensor, Tensor]:
    """The stream of a plan: short-range convolution each token, one future fill at block ends.

    When level ``T`` fires before position ``p``, block ``i`` of its group receives

        pending[block i] += sum_{j<i} future_fill of block j, i - j - 1 blocks ahead

    (docs/algorithm.md, equation 3). Arguments and result as in ``online_conv``.
    """
    h = expand_filters(h, u_0.shape[1])
    pending = torch.zeros(*u_0.shape, plan.slots, dtype=u_0.dtype, device=u_0.device)
    base = plan.block_sizes[0]

    def output(u: Tensor, t: int) -> Tensor:
        for fired in plan.levels_at(t - 1) if t else ():
            level = plan.levels[fired]
            blocks = level.products(t // level.block) * level.block
            stop = min(t + level.late + level.block, plan.slots)
            filled = future_fill(u[..., t - blocks : t], h, stop - t)
            pending[..., t + level.late : stop] += filled[..., level.late :]
        taps = min(t % base + 1, h.shape[1])
        recent = u[..., t + 1 - taps : t + 1].flip(-1)
        return pending[..., t] + (recent * h[:, :taps]).sum(-1)

    return _stream(u_0, plan.slots, next_input, output)


def epoched_conv(
    u_0: Tensor, h: Tensor, length: int, block_size: int, next_input: NextInput
) -> tuple[Tensor, Tensor]:
    """Epoched-FutureFill (arXiv 2410.03766, Algorithm 2): refill the cache every K tokens.

    At the start of an epoch everything generated so far fills the next ``block_size`` outputs.
    """
    h = expand_filters(h, u_0.shape[1])
    cache = torch.zeros(*u_0.shape, block_size, dtype=u_0.dtype, device=u_0.device)

    def output(u: Tensor, t: int) -> Tensor:
        k = t % block_size
        if k == 0:
            cache.copy_(future_fill(u[..., :t], h, block_size))
        taps = min(k + 1, h.shape[1])
        recent = u[..., t + 1 - taps : t + 1].flip(-1)
        return cache[..., k] + (recent * h[:, :taps]).sum(-1)

    return _stream(u_0, length, next_input, output)


def continuous_conv(
    u_0: Tensor, h: Tensor, length: int, next_input: NextInput
) -> tuple[Tensor, Tensor]:
    """Continuous-FutureFill (arXiv 2410.03766, Algorithm 3): at ``t`` the last ``2^k`` inputs,
    ``2^k`` the largest power of two that divides ``t``, fill the next ``2^k`` outputs.
    """
    h = expand_filters(h, u_0.shape[1])
    cache = torch.zeros(*u_0.shape, length, dtype=u_0.dtype, device=u_0.device)

    def output(u: Tensor, t: int) -> Tensor:
        if t:
            block = t & -t
            stop = min(t + block, length)
            cache[..., t:stop] += future_fill(u[..., t - block : t], h, stop - t)
        return cache[..., t] + h[:, 0] * u[..., t]

    return _stream(u_0, length, next_input, output)
