"""Future fill of one level, for all layers and rows in one launch (docs/algorithm.md, equation 3).

A program does one row, layer and group of C channels in one pass over global memory: the newest
block is transformed, its spectrum kept, multiplied by the filter's, summed with the products of the
kept spectra, transformed back and added to the pending outputs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tree import POWERS, TABLE, concatenate, halves, interleave, merge_tree, split_tree, twiddles


@triton.jit
def spectrum_product(
    re, im, kept, spectra, residue, n, blocks, keeps, slots, lanes, filter_lanes,
    channel, filter_row, N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Sum of spectrum products of a residue's M leaves; keeps the newest block's spectrum.

    re, im: [M, C] of block ``n - 1``.
    """
    leaf = residue * M + tl.arange(0, M)[:, None]
    filter_at = spectra + leaf.to(tl.int64) * 2 * filter_lanes + filter_row[None, :]
    h_re = tl.load(filter_at).to(tl.float32)
    h_im = tl.load(filter_at + filter_lanes).to(tl.float32)
    sum_re = re * h_re - im * h_im
    sum_im = re * h_im + im * h_re
    kept_at = kept + leaf.to(tl.int64) * 2 * lanes + channel[None, :]
    for k in range(2, blocks + 1):
        filter_at += 2 * N * filter_lanes
        h_re = tl.load(filter_at).to(tl.float32)
        h_im = tl.load(filter_at + filter_lanes).to(tl.float32)
        old_at = kept_at + ((n - k) % slots).to(tl.int64) * (2 * N) * lanes
        x_re = tl.load(old_at)
        x_im = tl.load(old_at + lanes)
        sum_re += x_re * h_re - x_im * h_im
        sum_im += x_re * h_im + x_im * h_re
    # the slot may be the one that was read last
    if keeps:
        tl.debug_barrier()
        new_at = kept_at + ((n - 1) % slots).to(tl.int64) * (2 * N) * lanes
        tl.store(new_at, re)
        tl.store(new_at + lanes, im)
    return sum_re, sum_im


@triton.jit(
    do_not_specialize=[
        "radix", "n_spectra", "slots", "length", "batch", "per_group", "late", "extra",
        "first_unit",
    ]
)  # fmt: skip
def future_fill_kernel(
    ring, kept, spectra, positions, rows, table,
    batch, length, radix, n_spectra, slots, per_group, late, extra, first_unit,
    lanes, filter_lanes, kept_rows, kept_offset, spectra_rows, spectra_offset,
    ALL_ROWS: tl.constexpr, GROUPED: tl.constexpr,
    T: tl.constexpr, N: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Grid: (channels / C, rows, layers); channels from ``32 first_unit`` on.

    ring: (layers, B, N, lanes). kept: (layers, B, kept rows, 2, lanes). spectra: (layers, rows, 2,
    filter_lanes). late, extra: of a level with slack, plan.Level. T: block; N: transform length; R:
    residues, one after the other.
    """
    M: tl.constexpr = N // R
    channel = first_unit * 32 + tl.program_id(0) * C + tl.arange(0, C)
    filter_row = channel // per_group if GROUPED else channel
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
    ring += ((layer * batch + row) * length + position) * lanes
    kept += ((layer * batch + row) * kept_rows + kept_offset) * 2 * lanes
    spectra += (layer * spectra_rows + spectra_offset) * 2 * filter_lanes

    if R == 1:
        time = tl.arange(0, N)[:, None]
        u_at = ring + (time - T).to(tl.int64) * lanes + channel[None, :]
        u = tl.load(u_at) if T == N else tl.load(u_at, mask=time < T, other=0.0)
        if N == 1:
            re, im = u, u * 0.0
        else:
            # the input is real: the root's split needs no complex product
            a, b = halves(u, 1, N // 2, C)
            cos, sin = twiddles(table, 1, 1, 1)
            t_re = b * cos
            t_im = b * sin
            re = interleave(a + t_re, a - t_re, 1, N // 2, C)
            im = interleave(t_im, -t_im, 1, N // 2, C)
            re, im = split_tree(re, im, table, 1, 2, N, C)
        re, im = spectrum_product(
            tl.reshape(re, (N, C)), tl.reshape(im, (N, C)), kept, spectra, 0, n, blocks, keeps,
            slots, lanes, filter_lanes, channel, filter_row, N, N,
        )  # fmt: skip
        if N == 1:
            filled = im
        else:
            # only imaginary parts are wanted of the root's merge
            re, im = merge_tree(
                tl.reshape(re, (N, 1, C)), tl.reshape(im, (N, 1, C)), table, 1, 2, N, C
            )
            l_re, r_re = halves(tl.reshape(re, (1, N, C)), 1, N // 2, C)
            l_im, r_im = halves(tl.reshape(im, (1, N, C)), 1, N // 2, C)
            cos, sin = twiddles(table, 1, 1, 1)
            high = (l_im - r_im) * cos - (l_re - r_re) * sin
            filled = tl.reshape(concatenate(l_im + r_im, high, 1, N // 2, C), (N, C))
        out = ring + (late + time).to(tl.int64) * lanes + channel[None, :]
    else:
        power = tl.arange(0, R)[:, None, None]
        time = power * M + tl.arange(0, M)[None, :, None]
        u_at = ring + (time - T).to(tl.int64) * lanes + channel[None, None, :]
        u = tl.load(u_at) if T == N else tl.load(u_at, mask=time < T, other=0.0)
        filled = tl.zeros((R, M, C), dtype=tl.float32)
        powers = table + POWERS + (R * R - 4) // 3
        for residue in range(R):
            cos = tl.load(powers + residue * R + power)
            sin = tl.load(powers + TABLE + residue * R + power)
            re = tl.sum(u * cos, axis=0)
            im = tl.sum(u * sin, axis=0)
            re, im = split_tree(
                tl.reshape(re, (1, M, C)), tl.reshape(im, (1, M, C)), table, R + residue, 1, M, C
            )
            re, im = spectrum_product(
                tl.reshape(re, (M, C)), tl.reshape(im, (M, C)), kept, spectra, residue,
                n, blocks, keeps, slots, lanes, filter_lanes, channel, filter_row, N, M,
            )  # fmt: skip
            re, im = merge_tree(
                tl.reshape(re, (M, 1, C)), tl.reshape(im, (M, 1, C)), table, R + residue, 1, M, C
            )
            filled += im * cos - re * sin
        out = ring + (late + time).to(tl.int64) * lanes + channel[None, None, :]

    inside = time < tl.minimum(length - late - position, T)
    pending = tl.load(out, mask=inside, other=0.0)
    tl.store(out, pending + filled, mask=inside)
