"""Short-range convolution of one token of one layer (docs/algorithm.md, equation 2)."""

from __future__ import annotations

import triton
import triton.language as tl

#: One arrival, counted above the position's 32 bits.
ARRIVAL = tl.constexpr(1 << 32)


@triton.jit(do_not_specialize=["layer", "batch", "length", "n_rows", "per_group"])
def short_range_step_kernel(
    u, pre, post, y, ring, taps, skip, positions, rows,
    layer, batch, length, n_rows, per_group,
    channels, lanes, filter_lanes,
    ADVANCE: tl.constexpr, GROUPED: tl.constexpr, T: tl.constexpr,
    TILE: tl.constexpr, ROWS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Grid: (channels / C, rows / ROWS).

    u, pre, post, y: (rows, channels). ring: (layers, B, N, lanes). taps: (layers, T, filter_lanes).
    skip: (layers, lanes) or None. positions: (B,). rows: (n_rows,) or None; -1 is padding.
    TILE: taps at a time, a power of two.
    """
    channel = tl.program_id(0) * C + tl.arange(0, C)
    real = channel < channels
    filter_row = channel // per_group if GROUPED else channel
    index = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    if rows is None:
        row = tl.where(index < n_rows, index, -1).to(tl.int64)
    else:
        row = tl.load(rows + index, mask=index < n_rows, other=-1)
    valid = row >= 0
    if ADVANCE:
        # one atomic reads the position and counts the programs that have read it
        old = tl.atomic_add(positions + row, tl.full((ROWS,), ARRIVAL, tl.int64), mask=valid)
        position = old & (ARRIVAL - 1)
        last = (old // ARRIVAL) == tl.num_programs(0) - 1
        tl.store(positions + row, position + 1, mask=valid & last)
    else:
        position = tl.load(positions + row, mask=valid, other=0)
    valid &= position < length
    taken = (position % T).to(tl.int32)
    most = tl.max(tl.where(valid, taken, -1), axis=0)

    layer = layer.to(tl.int64)
    ring += layer * batch * length * lanes
    taps += layer * T * filter_lanes
    slot = (tl.where(valid, row, 0) * length + tl.where(valid, position, 0)) * lanes  # [ROWS]

    # slot 0 back from the position is the pending output, with weight 1; slot s the input s ago
    back = tl.arange(0, TILE)
    past = ring + slot[:, None, None] - back[None, :, None].to(tl.int64) * lanes
    past += channel[None, None, :]
    tap_at = taps + back[:, None] * filter_lanes + filter_row[None, :]
    weight = tl.load(
        tap_at,
        mask=((back > 0) & (back <= most))[:, None],
        other=tl.where(back == 0, 1.0, 0.0)[:, None].broadcast_to(TILE, C),
    )
    near = valid[:, None] & (back[None, :] <= taken[:, None])
    total = tl.load(past, mask=near[:, :, None], other=0.0) * weight[None]
    if T > TILE:
        for start in range(TILE, most + 1, TILE):
            weight = tl.load(
                tap_at + start * filter_lanes, mask=(back + start <= most)[:, None], other=0.0
            )
            near = valid[:, None] & (back[None, :] + start <= taken[:, None])
            before = tl.load(past - start * lanes, mask=near[:, :, None], other=0.0)
            total += before * weight[None]
    result = tl.sum(total, axis=1)  # [ROWS, C]

    token = index[:, None].to(tl.int64) * channels + channel[None, :]
    present = valid[:, None] & real[None, :]
    x = tl.load(u + token, mask=present, other=0.0).to(tl.float32)
    if pre is not None:
        x *= tl.load(pre + token, mask=present, other=0.0).to(tl.float32)
    newest = tl.load(taps + filter_row)
    if skip is not None:
        newest += tl.load(skip + layer * lanes + channel)
    result += x * newest[None, :]
    if post is not None:
        result *= tl.load(post + token, mask=present, other=0.0).to(tl.float32)
    tl.debug_barrier()  # every warp has read the pending output
    tl.store(ring + slot[:, None] + channel[None, :], x, mask=present)
    inside = (index < n_rows)[:, None] & real[None, :]
    tl.store(y + token, tl.where(valid[:, None], result, 0.0).to(y.dtype.element_ty), mask=inside)
