"""What comes before and after the transforms of a prompt (docs/algorithm.md)."""

from __future__ import annotations

import triton
import triton.language as tl

# Triton gives a thread as many neighbours as the widest access takes; narrower accesses are then
# strided over a warp. A zero that the compiler does not know makes no access wider than V.


@triton.jit(do_not_specialize=["zero"])
def prefill_inputs_kernel(
    u, pre, lengths, x, held,
    channels, positions, width,
    u_row, u_channel, pre_row, pre_channel, x_row, x_channel, held_row, held_channel, zero,
    C: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Grid: (width / T, channels / C, rows). Gated inputs as float32, zero after their end.

    u, pre: (rows, channels, positions). lengths: (rows,) int64 or None. x: (rows, channels, width).
    held: (rows, channels, positions) float32 or None, a second copy. Strides of rows and channels
    are given, that of time is 1.
    """
    row = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    time = tl.program_id(0) * T + zero * V + tl.arange(0, T)
    inside = channel < channels
    channel = channel.to(tl.int64)[:, None]
    there = inside[:, None] & (time < positions)[None, :]
    valid = there
    length = positions
    if lengths is not None:
        length = tl.load(lengths + row)
        valid &= (time // V < (length + V - 1) // V)[None, :]  # wide accesses have one mask
    at = u + row * u_row + channel * u_channel + time[None, :]
    value = tl.load(at, mask=valid, other=0.0).to(tl.float32)
    if pre is not None:
        at = pre + row * pre_row + channel * pre_channel + time[None, :]
        value *= tl.load(at, mask=valid, other=0.0).to(tl.float32)
    if lengths is not None:
        value = tl.where((time < length)[None, :], value, 0.0)
    at = x + row * x_row + channel * x_channel + time[None, :]
    tl.store(at, value, mask=inside[:, None] & (time < width)[None, :])
    if held is not None:
        at = held + row * held_row + channel * held_channel + time[None, :]
        tl.store(at, value, mask=there)


@triton.jit(do_not_specialize=["layer", "batch", "zero"])
def prefill_outputs_kernel(
    z, u, pre, post, skip, y, prompt_fill, ring, rows, starts, ends,
    layer, batch, channels, positions, length, slots, lanes, first_channel,
    z_row, z_channel, u_row, u_channel, pre_row, pre_channel, post_row, post_channel, y_row,
    y_channel, zero,
    C: tl.constexpr, T: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Grid: ((positions + length) / T, channels / C, rows), one tile more where rows have starts.

    z: (rows, channels, ...) float32, the convolution from the stream's start. u, pre, post, y:
    (rows, channels, positions), of which z has the first at ``starts``, (rows,) int64 or None for
    0. ends: (rows,) int64, where the prompt ends and its future fill begins. prompt_fill, ring:
    (layers, batch, length or slots, lanes), prompt_fill or None. rows: (rows,) int64, their batch
    row. skip: (layers, lanes) or None; u is read with it. V: a divisor of positions and of z's
    size.
    """
    r = tl.program_id(2).to(tl.int64)
    local = tl.program_id(1) * C + tl.arange(0, C)
    end = tl.load(ends + r)
    begin = tl.program_id(0) * T + zero * V
    if starts is None:
        time = begin + tl.arange(0, T)  # [T]
        first, token = 0, time
        output = token // V < positions // V
    else:
        start = tl.load(starts + r)
        begin += start // 32 * 32  # whole lines of z
        time = begin + tl.arange(0, T)
        first, token = start, time - start
        output = (token >= 0) & (token < positions)
    inside = local < channels  # [C]
    channel = local.to(tl.int64)[:, None]
    filled = (time >= end) & (time < end + length)
    # whole vectors of z, so that wide accesses have one mask
    stop = tl.maximum(first + positions, end + length)
    read = (time // V >= first // V) & (time // V < (stop + V - 1) // V)
    # [C, T]
    source = z + r * z_row + channel * z_channel + time[None, :]
    value = tl.load(source, mask=inside[:, None] & read[None, :], other=0.0)
    if (begin + T > end) & (begin < end + length):
        # [T, C], whole lines of channels
        wanted = filled[:, None] & inside[None, :]
        layer_row = layer.to(tl.int64) * batch + tl.load(rows + r)
        slot = (time - end)[:, None]
        lane = first_channel + local[None, :]
        pending = tl.trans(value)
        tl.store(ring + (layer_row * slots + slot) * lanes + lane, pending, mask=wanted)
        if prompt_fill is not None:
            copy = prompt_fill + (layer_row * length + slot) * lanes + lane
            tl.store(copy, pending, mask=wanted)
    if begin < first + positions:
        shown = inside[:, None] & output[None, :]
        at = token[None, :]
        if skip is not None:
            u_at = u + r * u_row + channel * u_channel + at
            x = tl.load(u_at, mask=shown, other=0.0).to(tl.float32)
            if pre is not None:
                pre_at = pre + r * pre_row + channel * pre_channel + at
                x *= tl.load(pre_at, mask=shown, other=0.0).to(tl.float32)
            x = tl.where((time < end)[None, :], x, 0.0)
            weight = skip + layer.to(tl.int64) * lanes + first_channel + local
            value += tl.load(weight, mask=inside, other=0.0)[:, None] * x
        if post is not None:
            post_at = post + r * post_row + channel * post_channel + at
            value *= tl.load(post_at, mask=shown, other=0.0).to(tl.float32)
        y_at = y + r * y_row + channel * y_channel + at
        tl.store(y_at, value.to(y.dtype.element_ty), mask=shown)
