"""A token of one layer after its history: ``y = post (history + (taps[0] + skip) x)``."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(
    do_not_specialize=[
        *("layer", "batch", "length", "open_slots", "block", "channels_per_filter"),
        *("vectors", "u_row", "pre_row", "post_row", "y_row"),
    ]
)
def apply_step_kernel(
    u, pre, post, y, ring, open_block, taps, skip, history, token_at, positions, rows,
    layer, batch, length, open_slots, block, channels_per_filter,
    vectors, u_row, pre_row, post_row, y_row, lanes, filter_lanes,
    ADVANCE: tl.constexpr, GROUPED: tl.constexpr, CHANNELS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Grid: (channels / CHANNELS, rows). Element-wise; only the stores wait for the position.

    u, pre, post, y: (rows, vectors VECTOR); their rows are u_row, ... vectors apart. ring: (layers,
    B, N, lanes). open_block: as in history; its inputs are rounded to the ring's dtype. taps:
    (layers, block, filter_lanes). skip: (layers, lanes) or None. history: (layers, B, lanes).
    token_at: (layers, B). positions: (B,), which nothing else here reads or writes. rows: (n_rows,)
    or None for all; -1 is padding.
    """
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel // VECTOR < vectors  # bounds of whole vectors keep accesses wide
    token = tl.program_id(1).to(tl.int64) + tl.arange(0, 1)  # masks are no scalars
    row = token if rows is None else tl.load(rows + token)
    named = row >= 0
    layer = tl.cast(layer, tl.int64)  # also of an int, as torch.compile gives it
    state = layer * batch + row
    position = tl.load(token_at + state, mask=named, other=-1)
    some = inside & named
    x = tl.load(u + token * u_row * VECTOR + channel, mask=some, other=0.0).to(tl.float32)
    if pre is not None:
        x *= tl.load(pre + token * pre_row * VECTOR + channel, mask=some, other=0.0).to(tl.float32)
    filter_row = channel // channels_per_filter if GROUPED else channel
    newest = tl.load(taps + layer * block * filter_lanes + filter_row, mask=inside, other=0.0)
    if skip is not None:
        newest += tl.load(skip + layer * lanes + channel, mask=inside, other=0.0)
    result = tl.load(history + state * lanes + channel, mask=some, other=0.0) + newest * x
    if post is not None:
        result *= tl.load(post + token * post_row * VECTOR + channel, mask=some, other=0.0).to(
            tl.float32
        )
    valid = (position >= 0) & (position < length)
    result = tl.where(valid, result, tl.where(named, float("nan"), 0.0))
    tl.store(y + token * y_row * VECTOR + channel, result.to(y.dtype.element_ty), mask=inside)
    if open_block is None:
        tl.store(ring + (state * length + position) * lanes + channel, x, mask=inside & valid)
    else:
        slot = open_block + (state * open_slots + position % open_slots) * lanes + channel
        tl.store(slot, x.to(ring.dtype.element_ty).to(tl.float32), mask=inside & valid)
    if ADVANCE:
        once = tl.where(tl.program_id(0) == 0, position, length)
        tl.store(positions + row, position + 1, mask=valid & (once < length))
