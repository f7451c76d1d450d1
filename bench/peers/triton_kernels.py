"""The kernels of the Triton peers; imported where one is made, since Triton may be missing."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TIMES, _CHANNELS = 32, 64  # of a block of the dot product
_PROGRAMS = 512  # that a device is given at least, where the history is long enough
_STATES = 1024  # of all channels of a block of the recurrence


@triton.jit(do_not_specialize=["position", "span"])
def _dot(u, h, y, position, span, channels, TIMES: tl.constexpr, CHANNELS: tl.constexpr):
    first = tl.program_id(1) * span
    row, rows = tl.program_id(2), tl.num_programs(2)
    d = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((TIMES, CHANNELS), dtype=tl.float32)
    for start in range(first, first + span, TIMES):
        lag = start + tl.arange(0, TIMES)
        inside = (lag < first + span) & (lag <= position)
        mask = inside[:, None] & (d < channels)[None, :]
        taps = tl.load(h + lag[:, None].to(tl.int64) * channels + d[None, :], mask, other=0.0)
        slot = ((position - lag).to(tl.int64) * rows + row) * channels
        total += taps * tl.load(u + slot[:, None] + d[None, :], mask, other=0.0)
    tl.atomic_add(y + row * channels + d, tl.sum(total, 0), mask=d < channels)


def dot(u: Tensor, h: Tensor, position: int) -> Tensor:
    """``y = sum_s h_s u_{position - s}``, split over time. u: (L, B, D), h: (L, D) -> (B, D)."""
    _, batch, channels = u.shape
    y = torch.zeros_like(u[0])
    tiles = triton.cdiv(channels, _CHANNELS)
    parts = min(triton.cdiv(position + 1, _TIMES), triton.cdiv(_PROGRAMS, tiles * batch))
    span = triton.cdiv(position + 1, parts)
    _dot[(tiles, parts, batch)](u, h, y, position, span, channels, TIMES=_TIMES, CHANNELS=_CHANNELS)
    return y


@triton.jit
def _modal_step(
    x, poles, weights, u, y, channels, states,
    COMPLEX: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = d < channels
    drive = tl.load(u + row * channels + d, inside, other=0.0)
    total = tl.zeros((CHANNELS, STATES), dtype=tl.float32)
    for first in range(0, states, STATES):
        s = first + tl.arange(0, STATES)
        mask = inside[:, None] & (s < states)[None, :]
        own = d[:, None].to(tl.int64) * states + s[None, :]
        at = row * channels * states + own
        if COMPLEX:
            a = tl.load(x + 2 * at, mask, other=0.0)
            b = tl.load(x + 2 * at + 1, mask, other=0.0)
            p = tl.load(poles + 2 * own, mask, other=0.0)
            q = tl.load(poles + 2 * own + 1, mask, other=0.0)
            real, imag = a * p - b * q + drive[:, None], a * q + b * p
            tl.store(x + 2 * at, real, mask)
            tl.store(x + 2 * at + 1, imag, mask)
            c = tl.load(weights + 2 * own, mask, other=0.0)
            e = tl.load(weights + 2 * own + 1, mask, other=0.0)
            total += c * real - e * imag
        else:
            new = tl.load(x + at, mask, other=0.0) * tl.load(poles + own, mask, other=0.0)
            new += drive[:, None]
            tl.store(x + at, new, mask)
            total += tl.load(weights + own, mask, other=0.0) * new
    tl.store(y + row * channels + d, tl.sum(total, 1), inside)


def modal_step(x: Tensor, poles: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    """``x = pole x + u`` in place, ``y = sum Re(weight x)``: every number is read once.

    x: (B, D, s), poles and weights: (D, s), real or complex; u: (B, D). Returns y (B, D).
    """
    batch, channels = u.shape
    is_complex, states = poles.is_complex(), poles.shape[1]
    if is_complex:
        x, poles, weights = (torch.view_as_real(z) for z in (x, poles, weights))
    y = torch.empty_like(u)
    width = min(128, triton.next_power_of_2(states))
    tile = max(1, min(64, _STATES // width))
    _modal_step[(triton.cdiv(channels, tile), batch)](
        x, poles, weights, u, y, channels, states,
        COMPLEX=is_complex, CHANNELS=tile, STATES=width,
    )  # fmt: skip
    return y
