"""Future fill of one level, for all layers and rows in one launch (docs/algorithm.md, equation 3).

A program does one row, layer and group of C channels in one pass over global memory: the newest
block is transformed, its spectrum kept, multiplied by the filter's, summed with the products of the
kept spectra, transformed back and added to the pending outputs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tree import merge_tree, split_tree


@triton.jit
def newest_end(positions, row, T: tl.constexpr):
    """Where a row's newest block ends."""
    position = tl.load(positions + row)
    return position - position % T


@triton.jit
def firing(positions, row, radix, n_spectra, extra, T: tl.constexpr):
    """Of a row: where its newest block ends, blocks finished, the block that the products reach
    back to, and how many they are.
    """
    position = newest_end(positions, row, T)
    n = position.to(tl.int32) // T
    start = tl.maximum(n - extra, 0) // radix * radix
    return position, n, start, tl.minimum(n - start, n_spectra)


@triton.jit
def multiply_spectra(
    re, im, filter_at, filter_leaf, kept_at, kept_leaf,
    n, start, blocks, radix, slots, extra, lanes, filter_lanes,
    KEEPS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Products of the newest spectrum and of kept ones with the filter's, summed; the newest one is
    kept where a later firing reads it. N: rows of a spectrum.
    """
    h_re = tl.load(filter_at + filter_leaf).to(tl.float32)
    h_im = tl.load((filter_at + filter_lanes) + filter_leaf).to(tl.float32)
    sum_re = re * h_re - im * h_im
    sum_im = re * h_im + im * h_re
    if KEEPS:
        for i in range(2, blocks + 1):
            filter_at += 2 * N * filter_lanes
            h_re = tl.load(filter_at + filter_leaf).to(tl.float32)
            h_im = tl.load((filter_at + filter_lanes) + filter_leaf).to(tl.float32)
            old_at = kept_at + ((n - i) % slots).to(tl.int64) * (2 * N * lanes)
            x_re = tl.load(old_at + kept_leaf)
            x_im = tl.load((old_at + lanes) + kept_leaf)
            sum_re += x_re * h_re
            sum_re -= x_im * h_im
            sum_im += x_re * h_im
            sum_im += x_im * h_re
        # whether the next firing reaches back to block n - 1
        start += tl.where(n + 1 - extra == start + radix, radix, 0)
        if start < n:
            tl.debug_barrier()  # the slot may be the one that was read last
            new_at = kept_at + ((n - 1) % slots).to(tl.int64) * (2 * N * lanes)
            tl.store(new_at + kept_leaf, re)
            tl.store((new_at + lanes) + kept_leaf, im)
    return sum_re, sum_im


@triton.jit
def add_to_slots(slot, open_slot, index, inside, open_slots, added):
    """Sums that are rounded once, and in the open block not at all.

    slot: pointers into a ring of 16 bits, open_slot: into the open block, index: slots from the
    first of both on, inside: whether there is one, added: float32; all of one shape.
    """
    opened = inside & (index < open_slots)
    closed = inside & (index >= open_slots)
    tl.store(open_slot, tl.load(open_slot, mask=opened, other=0.0) + added, mask=opened)
    pending = tl.load(slot, mask=closed, other=0.0).to(tl.float32)
    tl.store(slot, pending + added, mask=closed)


@triton.jit(
    do_not_specialize=[
        "batch", "length", "open_slots", "radix", "n_spectra", "slots", "channels_per_filter",
        "late", "extra", "first_unit", "kept_rows", "kept_offset", "spectra_rows",
        "spectra_offset",
    ]
)  # fmt: skip
def future_fill_kernel(
    ring, open_block, kept, spectra, positions, rows, table,
    batch, length, open_slots, radix, n_spectra, slots, channels_per_filter, late, extra,
    first_unit,
    kept_rows, kept_offset, spectra_rows, spectra_offset, lanes, filter_lanes,
    ALL_ROWS: tl.constexpr, GROUPED: tl.constexpr, KEEPS: tl.constexpr, WHOLE: tl.constexpr,
    T: tl.constexpr, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr,
    LANES: tl.constexpr, FILTER_LANES: tl.constexpr,
):  # fmt: skip
    """Grid: (channels / C, rows, layers); channels from ``32 first_unit`` on.

    ring: (layers, B, N, lanes). open_block: (layers, B, open_slots, lanes), which has the first
    slots of the block that is filled, or None. kept: (layers, B, kept rows, 2, lanes). spectra:
    (layers, rows, 2, filter_lanes). late, extra: of a level with slack, level.Level. KEEPS: whether
    the level keeps input spectra. WHOLE: whether no block is longer than what is left of the
    stream. T: block; the transform has ``V S`` points (tree.py). LANES, FILTER_LANES: lanes and
    filter_lanes where they are compile-time numbers, else 0. ``2 V S lanes`` has to be below
    ``2^31``.
    """
    N: tl.constexpr = V * S
    if LANES > 0:
        lanes = LANES
        filter_lanes = FILTER_LANES
    # [V, S C], the last index s C + c: a row of it is S pieces of C channels side by side in memory
    thread = tl.arange(0, S * C)
    # one value per access, so that what is loaded needs no change of layout
    channel = tl.multiple_of(first_unit * 32 + tl.program_id(0) * C + thread % C, 1)[None, :]
    filter_row = channel // channels_per_filter if GROUPED else channel
    s = (thread // C)[None, :]
    v = tl.arange(0, V)[:, None]
    row = tl.program_id(1)
    row = row.to(tl.int64) if ALL_ROWS else tl.load(rows + row)
    if not ALL_ROWS:  # noqa: SIM102, this condition is of the compiler
        if row < 0:
            return
    layer = tl.program_id(2).to(tl.int64)
    position, n, start, blocks = firing(positions, row, radix, n_spectra, extra, T)

    state = layer * batch + row
    ring += (state * length + position) * lanes
    here = ring + (s * lanes + channel)
    step = v * (S * lanes)
    newest = here - T * lanes
    u = tl.load(newest + step) if T == N else tl.load(newest + step, mask=v * S + s < T, other=0.0)
    u = u.to(tl.float32)
    re, im = split_tree(tl.reshape(u, (V, S, C)), None, table, V, S, C)
    re = tl.reshape(re, (V, S * C))
    im = tl.reshape(im, (V, S * C))

    filter_at = spectra + (layer * spectra_rows + spectra_offset) * 2 * filter_lanes
    filter_at += s * (V * 2 * filter_lanes) + filter_row
    kept += (state * kept_rows + kept_offset) * 2 * lanes
    kept_at = kept + (s * (V * 2 * lanes) + channel)
    sum_re, sum_im = multiply_spectra(
        re, im, filter_at, v * (2 * filter_lanes), kept_at, v * (2 * lanes),
        n, start, blocks, radix, slots, extra, lanes, filter_lanes, KEEPS, N,
    )  # fmt: skip

    re = tl.reshape(sum_re, (V, S, C))
    im = tl.reshape(sum_im, (V, S, C))
    re, im = merge_tree(re, im, table, V, S, C)
    filled = tl.reshape(im, (V, S * C))
    out = (here + late.to(tl.int64) * lanes) + step
    if open_block is not None:
        inside = v * S + s < tl.minimum(length - position, T)
        opening = open_block + (state * open_slots * lanes + s * lanes + channel) + step
        add_to_slots(out, opening, v * S + s, inside, open_slots, filled)
    elif WHOLE:  # bounds of every value would take registers
        pending = tl.load(out).to(tl.float32)
        tl.store(out, pending + filled)
    else:
        inside = v * S + s < tl.minimum(length - late - position, T)
        pending = tl.load(out, mask=inside, other=0.0).to(tl.float32)
        tl.store(out, pending + filled, mask=inside)
