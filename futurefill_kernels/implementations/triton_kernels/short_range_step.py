"""Short-range convolution of one token of one layer (docs/algorithm.md, equation 2)."""

from __future__ import annotations

import triton
import triton.language as tl

#: One arrival, counted above the position's 32 bits.
ARRIVAL = tl.constexpr(1 << 32)


@triton.jit
def _read_and_arrive(position, valid, ROWS: tl.constexpr):
    """Positions of rows, read by an atomic that counts the program and so moves them by 1.

    What all programs add sums to 1. The first program's part makes the count negative, so that
    who comes later knows that the position has moved already.
    """
    others = (tl.num_programs(0) - 1).to(tl.int64)
    part = tl.where(tl.program_id(0) == 0, 1 - others * ARRIVAL, ARRIVAL)
    old = tl.atomic_add(position, tl.zeros((ROWS,), tl.int64) + part, mask=valid)
    return (old & (ARRIVAL - 1)) + (old >> 63)


@triton.jit
def _taken(position, T: tl.constexpr):
    """Inputs of the block before the position, -1 for a position of -1."""
    return tl.where(position < 0, -1, (position.to(tl.uint32) % T).to(tl.int32))


@triton.jit(do_not_specialize=["layer", "batch", "length", "n_rows", "channels_per_filter"])
def short_range_step_kernel(
    u, pre, post, y, ring, taps, skip, positions, rows,
    layer, batch, length, n_rows, channels_per_filter,
    channels, lanes, filter_lanes,
    ADVANCE: tl.constexpr, GROUPED: tl.constexpr, T: tl.constexpr, TILE: tl.constexpr,
    S: tl.constexpr, ROWS: tl.constexpr, SECTORS: tl.constexpr, VECTORS: tl.constexpr,
    VECTOR: tl.constexpr,
):  # fmt: skip
    """Grid: (channels / (SECTORS VECTORS 4), rows / ROWS).

    u, pre, post, y: (rows, channels). ring: (layers, B, N, lanes). taps: (layers, T, filter_lanes).
    skip: (layers, lanes) or None. positions: (B,). rows: (n_rows,) or None; -1 is padding.
    TILE: taps in flight, a power of two. S: taps that a warp's lanes share.
    VECTOR: 1, 2 or 4, a divisor of channels.
    """
    # Tiles are [ROWS, SECTORS, S, VECTORS, 4]: a warp per sector, so that no sum crosses warps, and
    # four channels per lane whatever the dtype.
    sector = tl.program_id(0) * SECTORS + tl.arange(0, SECTORS)[:, None, None, None]
    vector = sector * VECTORS + tl.arange(0, VECTORS)[None, None, :, None]
    channel = (vector * 4 + tl.arange(0, 4)[None, None, None, :])[None]
    # bounds of whole vectors keep accesses wide; padded channels may be read
    vectors = channels // VECTOR
    real = channel // VECTOR < vectors
    padded = channel // 4 < (channels + 3) // 4
    filter_row = channel // channels_per_filter if GROUPED else channel
    index = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    if rows is None:
        row = tl.where(index < n_rows, index, -1).to(tl.int64)
    else:
        row = tl.load(rows + index, mask=index < n_rows, other=-1)
    valid = row >= 0
    if ADVANCE:
        position = _read_and_arrive(positions + row, valid, ROWS)
    else:
        position = tl.load(positions + row, mask=valid, other=0)
    position = tl.where(valid & (position < length), position, -1).to(tl.int32)
    most = tl.max(_taken(position, T), axis=0)

    # [ROWS] to tiles in one change of layout
    position = position[:, None, None, None, None]
    valid = position >= 0
    taken = _taken(position, T)
    layer = layer.to(tl.int64)
    slot = row[:, None, None, None, None] * length + position
    slot = (ring + layer * batch * length * lanes) + slot * lanes + channel
    tap = taps + layer * T * filter_lanes + filter_row

    # the token's own values are in the first of the S places: read and written once
    place = tl.arange(0, S)[None, None, :, None, None]
    own = (place == 0) & real
    inside = (index < n_rows)[:, None, None, None, None] & own
    present = valid & own
    token = index[:, None, None, None, None].to(tl.int64) * vectors * VECTOR + channel
    token = token.broadcast_to(ROWS, SECTORS, S, VECTORS, 4)
    own_slot = slot.broadcast_to(ROWS, SECTORS, S, VECTORS, 4)

    x = tl.load(u + token, mask=present, other=0.0).to(tl.float32)
    if pre is not None:
        x *= tl.load(pre + token, mask=present, other=0.0).to(tl.float32)
    newest = tl.load(tap.broadcast_to(1, SECTORS, S, VECTORS, 4), mask=own, other=0.0)
    if skip is not None:
        skip += layer * lanes + channel
        newest += tl.load(skip.broadcast_to(1, SECTORS, S, VECTORS, 4), mask=own, other=0.0)
    total = tl.load(own_slot, mask=present, other=0.0) + x * newest
    past = slot - place.to(tl.int64) * lanes
    tap += place * filter_lanes
    for start in range(0, (most + 1) if T > TILE else TILE, TILE):
        for first in tl.static_range(0, TILE, S):
            s = start + first
            far = (s + place > 0) & padded
            h = tl.load(tap + s * filter_lanes, mask=far & (place <= most - s), other=0.0)
            near = far & (place <= taken - s)
            total += tl.load(past - s * lanes.to(tl.int64), mask=near, other=0.0) * h
    result = tl.sum(total, axis=2)[:, :, None, :, :]
    if post is not None:
        result *= tl.load(post + token, mask=present, other=0.0).to(tl.float32)
    tl.debug_barrier()  # every warp has read the pending output
    tl.store(own_slot, x, mask=present)
    result = tl.where(valid, result, 0.0).broadcast_to(ROWS, SECTORS, S, VECTORS, 4)
    tl.store(y + token, result.to(y.dtype.element_ty), mask=inside)
