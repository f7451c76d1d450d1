"""Products of weights with one normalised vector, whose first tiles are loaded before it is there.

A program does some rows of the weights, whole: tiles [ROWS, TILE], summed in float32. The vector is
rounded where a model that goes layer by layer rounds it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dependent_launch import start_next, wait_for_last


@triton.jit
def weight_tile(weight, row, real, start, K: tl.constexpr, TILE: tl.constexpr):
    """[ROWS, TILE] of weights (n, K), columns from ``start`` on; zero outside."""
    column = start + tl.arange(0, TILE)
    at = row.to(tl.int64)[:, None] * K + column[None, :]
    return tl.load(weight + at, mask=real[:, None] & (column < K)[None, :], other=0.0)


@triton.jit
def vector_tile(x, start, K: tl.constexpr, TILE: tl.constexpr):
    """[TILE] of x (K,) from ``start`` on, as float32; zero outside."""
    column = start + tl.arange(0, TILE)
    return tl.load(x + column, mask=column < K, other=0.0).to(tl.float32)


@triton.jit
def inverse_rms(first, x, K: tl.constexpr, TILE: tl.constexpr, EPS: tl.constexpr):
    """1 / sqrt(mean(x^2) + EPS). first: x's first tile."""
    squares = first * first
    for start in tl.static_range(TILE, K, TILE):
        v = vector_tile(x, start, K, TILE)
        squares += v * v
    return tl.rsqrt(tl.sum(squares, 0) / K + EPS)


@triton.jit
def norm_product(
    tile, v, weight, row, real, x, factor, scale, K: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """[ROWS] of ``weight @ (x * factor * scale)``. tile, v: first tiles of weight and vector."""
    sums = tile.to(tl.float32) * v[None, :]
    for start in tl.static_range(TILE, K, TILE):
        v = vector_tile(x, start, K, TILE) * factor * vector_tile(scale, start, K, TILE)
        v = v.to(weight.dtype.element_ty).to(tl.float32)
        sums += weight_tile(weight, row, real, start, K, TILE).to(tl.float32) * v[None, :]
    return tl.sum(sums, 1)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """silu, or gelu in its form with tanh."""
    if ACTIVATION == "silu":
        return x * tl.sigmoid(x)
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))  # 2 sqrt(2 / pi)


@triton.jit(do_not_specialize=["n"])
def norm_gate_kernel(
    x, scale, weight, y, n,
    K: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, EPS: tl.constexpr,
    ACTIVATION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y = act(gate) * up, where gate and up are the halves of ``weight @ norm(x)``.

    Grid: (n / ROWS,). x, scale: (K,). weight: (2n, K). y: (n,).
    """
    start_next(PDL)
    dtype = weight.dtype.element_ty
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < n
    up_weight = weight + n.to(tl.int64) * K
    gate_tile = weight_tile(weight, row, real, 0, K, TILE)
    up_tile = weight_tile(up_weight, row, real, 0, K, TILE)
    g = vector_tile(scale, 0, K, TILE)
    wait_for_last(PDL)
    v = vector_tile(x, 0, K, TILE)
    factor = inverse_rms(v, x, K, TILE, EPS)
    v = (v * factor * g).to(dtype).to(tl.float32)
    gate = norm_product(gate_tile, v, weight, row, real, x, factor, scale, K, TILE)
    up = norm_product(up_tile, v, up_weight, row, real, x, factor, scale, K, TILE)
    gate = activate(gate.to(dtype).to(tl.float32), ACTIVATION).to(dtype).to(tl.float32)
    tl.store(y + row, (gate * up.to(dtype).to(tl.float32)).to(dtype), mask=real)


@triton.jit
def norm_logits_kernel(
    x, scale, weight, logits, best, best_id, n,
    K: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, EPS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """logits = weight @ norm(x), and each program's largest with its lowest id.

    Grid: (n / ROWS,). x, scale: (K,). weight: (n, K). logits: (n,). best: (programs,) float32, NaN
    as infinity. best_id: (programs,) int32.
    """
    start_next(PDL)
    dtype = weight.dtype.element_ty
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < n
    tile = weight_tile(weight, row, real, 0, K, TILE)
    g = vector_tile(scale, 0, K, TILE)
    wait_for_last(PDL)
    v = vector_tile(x, 0, K, TILE)
    factor = inverse_rms(v, x, K, TILE, EPS)
    v = (v * factor * g).to(dtype).to(tl.float32)
    value = norm_product(tile, v, weight, row, real, x, factor, scale, K, TILE).to(dtype)
    tl.store(logits + row, value, mask=real)
    value = value.to(tl.float32)
    value = tl.where(value == value, value, float("inf"))
    value = tl.where(real, value, float("-inf"))
    most = tl.max(value, 0)
    tl.store(best + tl.program_id(0), most)
    lowest = tl.min(tl.where(real & (value == most), row, 2147483647), 0)
    tl.store(best_id + tl.program_id(0), lowest)
