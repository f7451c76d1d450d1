"""Future fill of one level, for all layers and rows in one launch (docs/algorithm.md, equation 3).

A program does one row, layer and group of C channels in one pass over global memory: the newest
block is transformed, its spectrum kept, multiplied by the filter's, summed with the products of the
kept spectra, transformed back and added to the pending outputs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tree import POWERS, first_group, last_group, merge_tree, split_tree


@triton.jit
def spectrum_product(
    re, im, kept, spectra, residue, n, blocks, keeps, slots, channel, filter_row,
    N: tl.constexpr, M: tl.constexpr, LANES: tl.constexpr, FILTER_LANES: tl.constexpr,
):  # fmt: skip
    """Sum of spectrum products of a residue's M leaves; keeps the newest block's spectrum.

    re, im: [K, M / K, C] of block ``n - 1``, leaves ``j K + k``.
    """
    K: tl.constexpr = last_group(M)
    first = residue * M + tl.arange(0, M // K)[None, :, None] * K
    k = tl.arange(0, K)[:, None, None]
    filter_at = spectra + first.to(tl.int64) * 2 * FILTER_LANES + filter_row[None, None, :]
    filter_leaf = 2 * FILTER_LANES * k
    h_re = tl.load(filter_at + filter_leaf).to(tl.float32)
    h_im = tl.load(filter_at + (filter_leaf + FILTER_LANES)).to(tl.float32)
    sum_re = re * h_re + im * -h_im
    sum_im = re * h_im + im * h_re
    kept_at = kept + first.to(tl.int64) * 2 * LANES + channel[None, None, :]
    kept_leaf = 2 * LANES * k
    for i in range(2, blocks + 1):
        filter_at += 2 * N * FILTER_LANES
        h_re = tl.load(filter_at + filter_leaf).to(tl.float32)
        h_im = tl.load(filter_at + (filter_leaf + FILTER_LANES)).to(tl.float32)
        old_at = kept_at + ((n - i) % slots).to(tl.int64) * (2 * N * LANES)
        x_re = tl.load(old_at + kept_leaf)
        x_im = tl.load(old_at + (kept_leaf + LANES))
        sum_re += x_re * h_re
        sum_re += x_im * -h_im
        sum_im += x_re * h_im
        sum_im += x_im * h_re
    # the slot may be the one that was read last
    if keeps:
        tl.debug_barrier()
        new_at = kept_at + ((n - 1) % slots).to(tl.int64) * (2 * N * LANES)
        tl.store(new_at + kept_leaf, re)
        tl.store(new_at + (kept_leaf + LANES), im)
    return sum_re, sum_im


@triton.jit(
    do_not_specialize=[
        "radix", "n_spectra", "slots", "length", "batch", "channels_per_filter", "late", "extra",
        "first_unit",
    ]
)  # fmt: skip
def future_fill_kernel(
    ring, kept, spectra, positions, rows, table,
    batch, length, radix, n_spectra, slots, channels_per_filter, late, extra, first_unit,
    kept_rows, kept_offset, spectra_rows, spectra_offset,
    ALL_ROWS: tl.constexpr, GROUPED: tl.constexpr,
    T: tl.constexpr, N: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
    LANES: tl.constexpr, FILTER_LANES: tl.constexpr,
):  # fmt: skip
    """Grid: (channels / C, rows, layers); channels from ``32 first_unit`` on.

    ring: (layers, B, N, lanes). kept: (layers, B, kept rows, 2, lanes). spectra: (layers, rows, 2,
    filter_lanes). late, extra: of a level with slack, plan.Level. T: block; N: transform length; R:
    residues, one after the other. LANES, FILTER_LANES: as compile-time numbers they save most of
    the registers and instructions that addresses would take.
    """
    M: tl.constexpr = N // R
    channel = first_unit * 32 + tl.program_id(0) * C + tl.arange(0, C)
    # one channel per thread, as in the tree: wider accesses would need a change of layout
    channel = tl.max_contiguous(channel, 1)
    filter_row = channel // channels_per_filter if GROUPED else channel
    row = tl.program_id(1)
    row = row.to(tl.int64) if ALL_ROWS else tl.load(rows + row)
    if not ALL_ROWS:  # noqa: SIM102, this condition is of the compiler
        if row < 0:
            return
    layer = tl.program_id(2).to(tl.int64)
    # blocks finished; the products reach back to block `start`
    position = tl.load(positions + row)
    position -= position % T
    n = position.to(tl.int32) // T
    start = tl.maximum(n - extra, 0) // radix * radix
    blocks = tl.minimum(n - start, n_spectra)
    # whether the next firing reaches back to block n - 1
    start += tl.where(n + 1 - extra == start + radix, radix, 0)
    keeps = (slots > 0) & (start < n)
    ring += ((layer * batch + row) * length + position) * LANES
    kept += ((layer * batch + row) * kept_rows + kept_offset) * 2 * LANES
    spectra += (layer * spectra_rows + spectra_offset) * 2 * FILTER_LANES

    # [R, K, H, C]; what the compiler knows is added last: it becomes part of the instructions
    K: tl.constexpr = first_group(M)
    H: tl.constexpr = M // K
    near = tl.arange(0, H)[None, None, :, None]
    far = (tl.arange(0, R) * M)[:, None, None, None] + (tl.arange(0, K) * H)[None, :, None, None]
    ring += near.to(tl.int64) * LANES + channel[None, None, None, :]
    u_at = (ring - T * LANES) + far * LANES
    u = tl.load(u_at) if T == N else tl.load(u_at, mask=near + far < T, other=0.0)
    if R == 1:
        u = tl.reshape(u, (K, H, C))
        re, im = split_tree(u, None if M > 1 else u * 0.0, table, 1, 1, M, C)
        re, im = spectrum_product(
            re, im, kept, spectra, 0, n, blocks, keeps, slots, channel, filter_row,
            N, M, LANES, FILTER_LANES,
        )  # fmt: skip
        re, im = merge_tree(re, im, table, 1, 1, M, C)
        filled = tl.reshape(im, (1, K, H, C))
    else:
        filled = tl.zeros((R, K, H, C), dtype=tl.float32)
        powers = table + POWERS + 2 * ((R * R - 4) // 3)
        power = 2 * tl.arange(0, R)[:, None, None, None, None] + tl.arange(0, 2)
        for residue in range(R):
            cos, sin = tl.split(tl.load(powers + 2 * R * residue + power))
            re = tl.sum(u * cos, axis=0)
            im = tl.sum(u * sin, axis=0)
            re, im = split_tree(re, im, table, R + residue, 1, M, C)
            re, im = spectrum_product(
                re, im, kept, spectra, residue, n, blocks, keeps, slots, channel, filter_row,
                N, M, LANES, FILTER_LANES,
            )  # fmt: skip
            re, im = merge_tree(re, im, table, R + residue, 1, M, C)
            filled += im * cos
            filled += re * -sin

    out = (ring + late.to(tl.int64) * LANES) + far * LANES
    inside = near + far < tl.minimum(length - late - position, T)
    pending = tl.load(out, mask=inside, other=0.0)
    tl.store(out, pending + filled, mask=inside)
