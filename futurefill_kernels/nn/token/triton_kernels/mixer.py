"""A mixer's convolutions of one token: short convolution, gates, and the apply of the long one.

The sums over older inputs are there (``history``), so everything is element-wise:
``x = pre u``, ``y = post (history + (taps[0] + skip) x)``, ``ring[token_at] = x``. With three
projections, as Hyena has them, they are post, pre and u, each through the short convolution; with
one, as STU has it, it is u. Tensors of a stream are those of ``Layout.padded``; of a ring in 16
bits, ``open_block`` has the slots of a row's block.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dependent_launch import start_next, wait_for_last
from .norm_products import inverse_rms, norm_product, vector_tile, weight_tile


@triton.jit
def recent(inputs, conv, channel, real, width, TAPS: tl.constexpr, SLOTS: tl.constexpr):
    """Of a short convolution: older inputs [SLOTS, C], what they add [C], the newest one's tap [C].

    inputs: (TAPS, width), oldest first; the oldest is taken as zero. conv: (width, TAPS), newest
    first. SLOTS: TAPS rounded up to a power of two.
    """
    slot = tl.arange(0, SLOTS)[:, None]
    there = (slot > 0) & (slot < TAPS) & real[None, :]
    older = tl.load(inputs + slot * width + channel[None, :], mask=there, other=0.0)
    weight = tl.load(conv + channel[None, :] * TAPS + TAPS - slot, mask=there, other=0.0)
    total = tl.sum(older.to(tl.float32) * weight.to(tl.float32), 0)
    tap = tl.load(conv + channel * TAPS, mask=real, other=0.0).to(tl.float32)
    return older, total, tap


@triton.jit
def convolved(
    newest, inputs, older, total, tap, channel, real, width,
    TAPS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """[C] of a short convolution, rounded; moves the inputs on, which every warp has read."""
    dtype = inputs.dtype.element_ty
    slot = tl.arange(0, SLOTS)[:, None]
    there = (slot > 0) & (slot < TAPS) & real[None, :]
    tl.store(inputs + (slot - 1) * width + channel[None, :], older, mask=there)
    tl.store(inputs + (TAPS - 1) * width + channel, newest.to(dtype), mask=real)
    return (total + tap * newest).to(dtype).to(tl.float32)


@triton.jit
def stream_values(
    ring, open_block, taps, skip, history, token_at, row, channel, real, layer, batch, slots,
    open_slots, lanes, filter_lanes, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a row's layer: history [C], the newest input's weight [C], the token's slot, its position,
    and whether the stream has that.
    """
    layer = layer.to(tl.int64)
    sums = tl.load(history + (layer * batch + row) * lanes + channel, mask=real, other=0.0)
    weight = tl.load(taps + layer * BLOCK * filter_lanes + channel, mask=real, other=0.0)
    if skip is not None:
        weight += tl.load(skip + layer * lanes + channel, mask=real, other=0.0)
    position = tl.load(token_at + layer * batch + row)
    valid = (position >= 0) & (position < slots)
    if open_block is None:
        slot = ring + ((layer * batch + row) * slots + tl.where(valid, position, 0)) * lanes
    else:
        place = tl.where(valid, position, 0) % open_slots
        slot = open_block + ((layer * batch + row) * open_slots + place) * lanes
    return sums, weight, slot, position, valid


@triton.jit
def applied(x, sums, weight, ring, slot, channel, valid, D: tl.constexpr):
    """[C]: ``sums + weight x``, NaN where the stream has ended; else x is stored as the ring has
    it.
    """
    stored = x.to(ring.dtype.element_ty).to(tl.float32)
    tl.store(slot + channel, stored, mask=channel < tl.where(valid, D, 0))
    return tl.where(valid, sums + weight * x, float("nan"))


@triton.jit
def advance(positions, row, position, valid):
    """The row's next position, stored by one program; no other reads it in this launch."""
    if tl.program_id(0) == 0:
        tl.store(positions + row, position + 1, mask=valid)


@triton.jit
def count(moved):
    """One token more has moved the short convolution's inputs; counted by one program."""
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.atomic_add(moved, 1, sem="relaxed")


@triton.jit(do_not_specialize=["layer", "batch"])
def mixer_kernel(
    projections, conv, inputs, moved, y, ring, open_block, taps, skip, history, token_at, positions,
    layer, batch, slots, open_slots, lanes, filter_lanes,
    D: tl.constexpr, CHANNELS: tl.constexpr, GATED: tl.constexpr, TAPS: tl.constexpr,
    SLOTS: tl.constexpr, BLOCK: tl.constexpr, ADVANCE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y (B, D) from projections (B, 3 D), or (B, D) where not GATED. Grid: (D / CHANNELS, B).

    conv: (3 D, TAPS), inputs: (B, TAPS, 3 D) and moved: (1,) int64, which counts the tokens that
    moved these, or None where not GATED. BLOCK: ``T_0``.
    """
    start_next(PDL)
    dtype = y.dtype.element_ty
    row = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    real = channel < D
    W: tl.constexpr = 3 * D if GATED else D
    sums, weight, slot, position, valid = stream_values(
        ring, open_block, taps, skip, history, token_at, row, channel, real, layer, batch, slots,
        open_slots, lanes, filter_lanes, BLOCK,
    )  # fmt: skip
    if GATED:
        inputs += row * TAPS * W
        pre_channel, u_channel = channel + D, channel + 2 * D
        post_older, post_sum, post_tap = recent(inputs, conv, channel, real, W, TAPS, SLOTS)
        pre_older, pre_sum, pre_tap = recent(inputs, conv, pre_channel, real, W, TAPS, SLOTS)
        u_older, u_sum, u_tap = recent(inputs, conv, u_channel, real, W, TAPS, SLOTS)
    wait_for_last(PDL)
    projections += row * W + channel
    if GATED:
        post = tl.load(projections, mask=real, other=0.0).to(tl.float32)
        pre = tl.load(projections + D, mask=real, other=0.0).to(tl.float32)
        u = tl.load(projections + 2 * D, mask=real, other=0.0).to(tl.float32)
        tl.debug_barrier()  # every warp has read the older inputs
        post = convolved(
            post, inputs, post_older, post_sum, post_tap, channel, real, W, TAPS, SLOTS
        )
        pre = convolved(pre, inputs, pre_older, pre_sum, pre_tap, pre_channel, real, W, TAPS, SLOTS)
        u = convolved(u, inputs, u_older, u_sum, u_tap, u_channel, real, W, TAPS, SLOTS)
        count(moved)
        result = post * applied(pre * u, sums, weight, ring, slot, channel, valid, D)
    else:
        u = tl.load(projections, mask=real, other=0.0).to(tl.float32)
        result = applied(u, sums, weight, ring, slot, channel, valid, D)
    tl.store(y + row * D + channel, result.to(dtype), mask=real)
    if ADVANCE:
        advance(positions, row, position, valid)


@triton.jit(do_not_specialize=["layer", "vocabulary"])
def norm_mixer_kernel(
    x, token, scale, weight, bias, conv, inputs, moved, y, total, ring, open_block, taps, skip,
    history, token_at, positions, layer, vocabulary, slots, open_slots, lanes, filter_lanes,
    D: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, EPS: tl.constexpr,
    GATED: tl.constexpr, TAPS: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr,
    ADVANCE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One row: projections ``weight @ norm(x) + bias`` and what `mixer_kernel` makes of them.

    Grid: (D / ROWS,). x: (D,), or the embedding (vocabulary, D) whose row ``token`` (1,) is taken;
    NaN for an id outside. scale: (D,) of the norm. weight: (3 D, D) and bias: (3 D,) or None where
    GATED, else (D, D) and None. y: (D,) and total: (D,), which gets a copy of x, or None where
    GATED; else y is None and total gets x + y. total is not x.
    """
    start_next(PDL)
    dtype = weight.dtype.element_ty
    channel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = channel < D
    W: tl.constexpr = 3 * D if GATED else D
    g = vector_tile(scale, 0, D, TILE)
    tile = weight_tile(weight, channel, real, 0, D, TILE)
    sums, tap, slot, position, valid = stream_values(
        ring, open_block, taps, skip, history, token_at, 0, channel, real, layer, 1, slots,
        open_slots, lanes, filter_lanes, BLOCK,
    )  # fmt: skip
    if GATED:
        pre_weight, u_weight = weight + D * D, weight + 2 * D * D
        pre_tile = weight_tile(pre_weight, channel, real, 0, D, TILE)
        u_tile = weight_tile(u_weight, channel, real, 0, D, TILE)
        pre_channel, u_channel = channel + D, channel + 2 * D
        post_older, post_sum, post_tap = recent(inputs, conv, channel, real, W, TAPS, SLOTS)
        pre_older, pre_sum, pre_tap = recent(inputs, conv, pre_channel, real, W, TAPS, SLOTS)
        u_older, u_sum, u_tap = recent(inputs, conv, u_channel, real, W, TAPS, SLOTS)
    wait_for_last(PDL)
    poison = 0.0
    if token is not None:
        chosen = tl.load(token)
        known = (chosen >= 0) & (chosen < vocabulary)
        x += tl.where(known, chosen, 0) * D
        poison = tl.where(known, 0.0, float("nan"))
    v = vector_tile(x, 0, D, TILE)
    factor = inverse_rms(v, x, D, TILE, EPS)
    v = (v * factor * g).to(dtype).to(tl.float32)
    before = tl.load(x + channel, mask=real, other=0.0).to(tl.float32) + poison
    first = norm_product(tile, v, weight, channel, real, x, factor, scale, D, TILE) + poison
    if GATED:
        pre = norm_product(pre_tile, v, pre_weight, channel, real, x, factor, scale, D, TILE)
        u = norm_product(u_tile, v, u_weight, channel, real, x, factor, scale, D, TILE)
        if bias is not None:
            first += tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
            pre += tl.load(bias + pre_channel, mask=real, other=0.0).to(tl.float32)
            u += tl.load(bias + u_channel, mask=real, other=0.0).to(tl.float32)
        post = first.to(dtype).to(tl.float32)
        pre = pre.to(dtype).to(tl.float32)
        u = u.to(dtype).to(tl.float32)
        tl.debug_barrier()  # every warp has read the older inputs
        post = convolved(
            post, inputs, post_older, post_sum, post_tap, channel, real, W, TAPS, SLOTS
        )
        pre = convolved(pre, inputs, pre_older, pre_sum, pre_tap, pre_channel, real, W, TAPS, SLOTS)
        u = convolved(u, inputs, u_older, u_sum, u_tap, u_channel, real, W, TAPS, SLOTS)
        count(moved)
        result = post * applied(pre * u, sums, tap, ring, slot, channel, valid, D)
        tl.store(y + channel, result.to(dtype), mask=real)
        if total is not None:
            tl.store(total + channel, before.to(dtype), mask=real)
    else:
        u = first.to(dtype).to(tl.float32)
        result = applied(u, sums, tap, ring, slot, channel, valid, D).to(dtype).to(tl.float32)
        tl.store(total + channel, (before + result).to(dtype), mask=real)
    if ADVANCE:
        advance(positions, 0, position, valid)
