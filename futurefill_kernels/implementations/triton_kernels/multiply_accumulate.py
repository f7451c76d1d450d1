"""Spectrum products of a level whose transforms torch.fft does, fused with keeping the newest."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(
    do_not_specialize=[
        "batch",
        "radix",
        "n_spectra",
        "slots",
        "channels_per_filter",
        "layer",
        "extra",
    ]
)
def multiply_accumulate_kernel(
    values, kept, spectra, positions, rows, order,
    batch, layer, radix, n_spectra, slots, channels_per_filter,
    extra, first_channel, width, transform, block,
    lanes, filter_lanes, kept_rows, kept_offset, spectra_rows, spectra_offset,
    GROUPED: tl.constexpr, LEAVES: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Grid: (width / C, rows, transform / LEAVES).

    values: (R, n, width, 2) float32, spectra of the newest blocks in the order of the FFT; replaced
    by the sums of products. rows: (R,) int64, -1 where the level does not fire. order: (n,) int64,
    the FFT's index of every tree-ordered row. extra: of a level with slack, level.Level.
    """
    local = tl.program_id(0) * C + tl.arange(0, C)
    channel = first_channel + local
    filter_row = channel // channels_per_filter if GROUPED else channel
    row = tl.load(rows + tl.program_id(1))
    if row < 0:
        return
    n = (tl.load(positions + row) // block).to(tl.int32)
    start = tl.maximum(n - extra, 0) // radix * radix
    blocks = tl.minimum(n - start, n_spectra)
    start += tl.where(n + 1 - extra == start + radix, radix, 0)
    leaf = tl.program_id(2) * LEAVES + tl.arange(0, LEAVES)
    # of padded spectra whole sectors: bounds inside a vector would split accesses
    inside = (leaf < transform)[:, None] & (local // 8 < (width + 7) // 8)[None, :]
    natural = tl.load(order + leaf, mask=leaf < transform, other=0)
    # [LEAVES, 2 C]: a third dimension would leave to Triton's version what a warp is spread over
    part = 2 * C * tl.program_id(0) + tl.arange(0, 2 * C)
    at = (tl.program_id(1).to(tl.int64) * transform + natural[:, None]) * (2 * width)
    value = (values + part)[None, :] + at
    held = (leaf < transform)[:, None] & (part < 2 * width)[None, :]
    x_re, x_im = tl.split(tl.reshape(tl.load(value, mask=held, other=0.0), (LEAVES, C, 2)))

    layer = layer.to(tl.int64)
    leaf = leaf.to(tl.int64)[:, None]
    filter_at = spectra + (layer * spectra_rows + spectra_offset + leaf) * 2 * filter_lanes
    filter_at += filter_row[None, :]
    kept_at = kept + ((layer * batch + row) * kept_rows + kept_offset + leaf) * 2 * lanes
    kept_at += channel[None, :]
    h_re = tl.load(filter_at, mask=inside, other=0.0).to(tl.float32)
    h_im = tl.load(filter_at + filter_lanes, mask=inside, other=0.0).to(tl.float32)
    sum_re = x_re * h_re - x_im * h_im
    sum_im = x_re * h_im + x_im * h_re
    for k in range(2, blocks + 1):
        filter_at += 2 * transform.to(tl.int64) * filter_lanes
        h_re = tl.load(filter_at, mask=inside, other=0.0).to(tl.float32)
        h_im = tl.load(filter_at + filter_lanes, mask=inside, other=0.0).to(tl.float32)
        old_at = kept_at + ((n - k) % slots).to(tl.int64) * 2 * transform * lanes
        k_re = tl.load(old_at, mask=inside, other=0.0)
        k_im = tl.load(old_at + lanes, mask=inside, other=0.0)
        sum_re += k_re * h_re - k_im * h_im
        sum_im += k_re * h_im + k_im * h_re
    if (slots > 0) & (start < n):
        tl.debug_barrier()
        new_at = kept_at + ((n - 1) % slots).to(tl.int64) * 2 * transform * lanes
        tl.store(new_at, x_re, mask=inside)
        tl.store(new_at + lanes, x_im, mask=inside)
    tl.store(value, tl.reshape(tl.join(sum_re, sum_im), (LEAVES, 2 * C)), mask=held)
