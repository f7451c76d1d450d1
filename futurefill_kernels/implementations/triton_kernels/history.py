"""What of a token's convolutions does not depend on the token, of all layers at once."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(
    do_not_specialize=[
        "batch", "length", "open_slots", "n_rows", "channels_per_filter", "block", "undo_slots",
    ]
)  # fmt: skip
def history_kernel(
    ring, open_block, taps, positions, rows, token_at, undo, history,
    batch, length, open_slots, n_rows, channels_per_filter, block, undo_slots,
    lanes, filter_lanes,
    GROUPED: tl.constexpr, ROWS: tl.constexpr, PLACES: tl.constexpr, STEPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Grid: (lanes / CHANNELS, rows / ROWS, layers).

    ring: (layers, B, N, lanes). open_block: (layers, B, open_slots, lanes), which has the rows'
    blocks in its place, or None. taps: (layers, block, filter_lanes). positions: (B,). rows:
    (n_rows,) or None; -1 is padding. token_at: (layers, B). undo: (layers, B, undo_slots,
    lanes), slot p % undo_slots. history: (layers, B, lanes).
    PLACES taps are side by side in a warp, STEPS of them in flight.
    """
    # Tiles are [ROWS, PLACES CHANNELS], of one warp: no sum crosses warps. A third dimension would
    # leave to Triton's version which of the others a warp is spread over.
    TILE: tl.constexpr = PLACES * CHANNELS
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, TILE)[None, :] % CHANNELS
    place = tl.arange(0, TILE)[None, :] // CHANNELS
    filter_row = channel // channels_per_filter if GROUPED else channel
    layer = tl.program_id(2).to(tl.int64)
    # also of ints, as torch.compile gives them
    lanes, filter_lanes = tl.cast(lanes, tl.int64), tl.cast(filter_lanes, tl.int64)
    index = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    if rows is None:
        row = tl.where(index < n_rows, index, -1).to(tl.int64)
    else:
        row = tl.load(rows + index, mask=index < n_rows, other=-1)
    position = tl.load(positions + row, mask=row >= 0, other=-1)
    once = tl.where(tl.program_id(0) == 0, row, -1)
    tl.store(token_at + layer * batch + once, position, mask=once >= 0)
    # earlier inputs of the block, -1 where there is no slot
    position = tl.where((position >= 0) & (position < length), position, -1)
    taken = tl.where(position < 0, -1, position.to(tl.int32) % block)
    most = tl.max(taken, axis=0)

    row, position, taken = row[:, None], position[:, None], taken[:, None]
    state = layer * batch + row
    if open_block is None:
        slot = ring + (state * length + position) * lanes + channel
    else:
        slot = open_block + (state * open_slots + position % open_slots) * lanes + channel
    own = state * lanes + channel
    # the pending outputs are in the first of the PLACES: read and written once
    first = (place == 0) & (taken >= 0)
    pending = tl.load(slot, mask=first, other=0.0)
    total = pending
    past = slot - (1 + place) * lanes
    tap = taps + (layer * block + 1 + place) * filter_lanes + filter_row
    for start in range(0, most, PLACES * STEPS):
        for step in tl.static_range(STEPS):
            s = start + step * PLACES
            h = tl.load(tap + s * filter_lanes, mask=place < most - s, other=0.0)
            total += tl.load(past - s * lanes, mask=place < taken - s, other=0.0) * h
    result = tl.sum(tl.reshape(total, (ROWS, PLACES, CHANNELS)), axis=1)[:, None, :]
    result = tl.reshape(result.broadcast_to(ROWS, PLACES, CHANNELS), (ROWS, TILE))
    kept = undo + (state * undo_slots + position % undo_slots) * lanes + channel
    tl.store(kept, pending, mask=first)  # here: it must not hold up the loads of the loop
    tl.store(history + own, result, mask=first)
