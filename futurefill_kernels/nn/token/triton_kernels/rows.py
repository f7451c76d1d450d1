"""What stands between the matrix products of several rows: norms and gates."""

from __future__ import annotations

import triton
import triton.language as tl

from .dependent_launch import start_next, wait_for_last
from .norm_products import activate


@triton.jit(do_not_specialize=["vocabulary"])
def add_norm_kernel(
    x, add, table, token, scale, y, vocabulary,
    D: tl.constexpr, TILE: tl.constexpr, EPS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """x += add, or x = table[token]; y = norm(x). Grid: (B,).

    x, y: (B, D). add: (B, D), or None with table: (vocabulary, D) and token: (B,); an id outside
    gives NaN. scale: (D,). TILE: at least D.
    """
    start_next(PDL)
    dtype = x.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    real = column < D
    g = tl.load(scale + column, mask=real, other=0.0).to(tl.float32)
    wait_for_last(PDL)
    here = x + row * D + column
    if table is not None:
        chosen = tl.load(token + row)
        known = (chosen >= 0) & (chosen < vocabulary)
        v = tl.load(table + tl.where(known, chosen, 0) * D + column, mask=real, other=0.0)
        v = v.to(tl.float32) + tl.where(known, 0.0, float("nan"))
    else:
        more = tl.load(add + row * D + column, mask=real, other=0.0)
        v = tl.load(here, mask=real, other=0.0).to(tl.float32) + more.to(tl.float32)
        v = v.to(dtype).to(tl.float32)
        tl.debug_barrier()  # every warp has read x
    tl.store(here, v.to(dtype), mask=real)
    squares = tl.where(real, v * v, 0.0)
    factor = tl.rsqrt(tl.sum(squares, 0) / D + EPS)
    tl.store(y + row * D + column, (v * factor * g).to(dtype), mask=real)


@triton.jit
def gate_kernel(
    wide, y, n, CHANNELS: tl.constexpr, ACTIVATION: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """y (B, n) = act(wide[:, :n]) * wide[:, n:]. wide: (B, 2n). Grid: (n / CHANNELS, B)."""
    start_next(PDL)
    dtype = y.dtype.element_ty
    row = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    real = channel < n
    wait_for_last(PDL)
    wide += row * 2 * n + channel
    gate = tl.load(wide, mask=real, other=0.0).to(tl.float32)
    up = tl.load(wide + n, mask=real, other=0.0).to(tl.float32)
    gate = activate(gate, ACTIVATION).to(dtype).to(tl.float32)
    tl.store(y + row * n + channel, (gate * up).to(dtype), mask=real)
