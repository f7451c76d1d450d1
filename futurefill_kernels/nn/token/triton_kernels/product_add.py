"""A product with one vector, added to the residual stream."""

from __future__ import annotations

import triton
import triton.language as tl

from .dependent_launch import start_next, wait_for_last
from .norm_products import vector_tile, weight_tile


@triton.jit
def product_add_kernel(
    x, weight, bias, residual, y, n,
    K: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y = residual + (weight @ x + bias). Grid: (n / ROWS,).

    x: (K,). weight: (n, K). bias: (n,) or None. residual, y: (n,), may be the same.
    """
    start_next(PDL)
    dtype = weight.dtype.element_ty
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < n
    tile = weight_tile(weight, row, real, 0, K, TILE)
    if bias is not None:
        constant = tl.load(bias + row, mask=real, other=0.0).to(tl.float32)
    wait_for_last(PDL)
    v = vector_tile(x, 0, K, TILE)
    before = tl.load(residual + row, mask=real, other=0.0).to(tl.float32)
    sums = tile.to(tl.float32) * v[None, :]
    for start in tl.static_range(TILE, K, TILE):
        tile = weight_tile(weight, row, real, start, K, TILE)
        sums += tile.to(tl.float32) * vector_tile(x, start, K, TILE)[None, :]
    product = tl.sum(sums, 1)
    if bias is not None:
        product += constant
    tl.debug_barrier()  # every warp has read the residual
    tl.store(y + row, (before + product.to(dtype).to(tl.float32)).to(dtype), mask=real)
