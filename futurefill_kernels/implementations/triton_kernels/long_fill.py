"""Future fill of a block that one program cannot hold: three passes over a workspace.

The transform's first log2 S depths make of a block S nodes of M coefficients, polynomials modulo
``x^M - c``, which a change of variable, a twist of the coefficients, turns into polynomials modulo
``x^M - i``: those of one program, whose leaves are the node's in the order of the whole tree. So
`split_block` reads inputs and writes twisted nodes; `transform_nodes` takes a node to its leaves,
multiplies and sums as a shorter fill does, and back; `merge_block` untwists, merges and adds to the
pending outputs. 52 bytes per point and channel, and every access has neighbouring channels side by
side.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .future_fill import add_to_slots, firing, multiply_spectra, newest_end
from .tree import halves, merge_first, merge_tree, split_first, split_tree


@triton.jit
def load_twist(table, first, V: tl.constexpr, M: tl.constexpr, K: tl.constexpr, C: tl.constexpr):
    """Cosine and sine [V, K C] of coefficients ``first`` to ``first + K - 1`` of V nodes, of a
    `gpu_passes.twist_table` as int64.
    """
    # [V K C]: neighbouring channels read one word, of which a version of Triton makes what it
    # likes where there are two dimensions
    index = tl.arange(0, V * K * C)
    at = table + first + index % (K * C) // C
    pair = tl.load(at + index // (K * C) * M)
    pair = tl.reshape(pair, (V, K * C))
    cos = pair.to(tl.int32).to(tl.float32, bitcast=True)
    return cos, (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def store_twisted(
    to, re, im, twist, first, V: tl.constexpr, M: tl.constexpr, K: tl.constexpr, C: tl.constexpr
):
    """A part of a block's nodes; all twists at once would take more registers than there are."""
    re = tl.reshape(re, (V, K * C))
    im = tl.reshape(im, (V, K * C))
    cos, sin = load_twist(twist, first, V, M, K, C)
    to += tl.arange(0, V)[:, None] * (M * 2 * C)
    tl.store(to, re * cos - im * sin)
    tl.store(to + C, re * sin + im * cos)


@triton.jit
def own_part(units, K: tl.constexpr, C: tl.constexpr):
    """Of a program of the outer passes: unit of channels, channels inside it, first coefficient."""
    # one value per access, so that a thread has all values of its coefficient
    channel = tl.multiple_of(tl.arange(0, K * C) % C, 1)
    return tl.program_id(0) % units, channel, tl.program_id(0) // units * K


@triton.jit(do_not_specialize=["batch", "length", "first_unit", "first_layer", "units"])
def split_block_kernel(
    scratch, ring, positions, rows, twist,
    batch, length, first_unit, first_layer, units,
    ALL_ROWS: tl.constexpr, T: tl.constexpr, V: tl.constexpr, M: tl.constexpr, K: tl.constexpr,
    C: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Grid: (units M / K, rows, layers); program x does the C channels of unit ``x % units``,
    counted from ``first_unit``, and K coefficients of every node from ``x // units`` K on.

    scratch: (layers, rows, units, V M, 2, C). ring: (layers, B, N, LANES). T: block.
    """
    unit, channel, first = own_part(units, K, C)
    k = first + tl.arange(0, K * C) // C
    s = tl.arange(0, V)[:, None]
    row = tl.program_id(1)
    row = row.to(tl.int64) if ALL_ROWS else tl.load(rows + row)
    if not ALL_ROWS:  # noqa: SIM102, this condition is of the compiler
        if row < 0:
            return
    position = newest_end(positions, row, T)
    layer = (first_layer + tl.program_id(2)).to(tl.int64)
    newest = ring + ((layer * batch + row) * length + position - T) * LANES
    at = newest + (k * LANES + (first_unit + unit) * C + channel)[None, :] + s * (M * LANES)
    u = tl.load(at) if T == V * M else tl.load(at, mask=s * M < (T - k)[None, :], other=0.0)
    u = u.to(tl.float32)
    re, im = split_first(tl.reshape(u, (V, K, C)), None, V, K, C)
    block = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    to = scratch + (block * units + unit) * (V * M * 2 * C) + (k * (2 * C) + channel)[None, :]
    re_0, re_1 = halves(re, 1, V, K, C)
    im_0, im_1 = halves(im, 1, V, K, C)
    store_twisted(to, re_0, im_0, twist, first, V // 2, M, K, C)
    store_twisted(to + V * M * C, re_1, im_1, twist + V * M // 2, first, V // 2, M, K, C)


@triton.jit(
    do_not_specialize=[
        "batch", "radix", "n_spectra", "slots", "channels_per_filter", "extra", "first_unit",
        "first_layer", "kept_rows", "kept_offset", "spectra_rows", "spectra_offset",
    ]
)  # fmt: skip
def transform_nodes_kernel(
    scratch, kept, spectra, positions, rows, table,
    batch, radix, n_spectra, slots, channels_per_filter, extra, first_unit, first_layer,
    kept_rows, kept_offset, spectra_rows, spectra_offset,
    ALL_ROWS: tl.constexpr, GROUPED: tl.constexpr, KEEPS: tl.constexpr, T: tl.constexpr,
    NODES: tl.constexpr, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr, UNIT: tl.constexpr,
    LANES: tl.constexpr, FILTER_LANES: tl.constexpr,
):  # fmt: skip
    """Grid: (units UNIT / C, rows, layers NODES); scratch as in split_block, whose C is UNIT, in
    place. kept and spectra as in future_fill; V S: coefficients of a node.
    """
    M: tl.constexpr = V * S
    N: tl.constexpr = NODES * M
    thread = tl.arange(0, S * C)
    unit = tl.program_id(0) // (UNIT // C)
    local = tl.multiple_of(tl.program_id(0) % (UNIT // C) * C + thread % C, 1)[None, :]
    channel = (first_unit + unit) * UNIT + local
    filter_row = channel // channels_per_filter if GROUPED else channel
    s = (thread // C)[None, :]
    v = tl.arange(0, V)[:, None]
    row = tl.program_id(1)
    row = row.to(tl.int64) if ALL_ROWS else tl.load(rows + row)
    if not ALL_ROWS:  # noqa: SIM102, this condition is of the compiler
        if row < 0:
            return
    node = tl.program_id(2) % NODES
    here = tl.program_id(2) // NODES
    layer = (first_layer + here).to(tl.int64)
    _, n, start, blocks = firing(positions, row, radix, n_spectra, extra, T)

    block = here.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    block = block * (tl.num_programs(0) // (UNIT // C)) + unit
    at = scratch + (block * N + node * M) * (2 * UNIT) + (s * (2 * UNIT) + local)
    step = v * (S * 2 * UNIT)
    re = tl.reshape(tl.load(at + step), (V, S, C))
    im = tl.reshape(tl.load((at + UNIT) + step), (V, S, C))
    re, im = split_tree(re, im, table, V, S, C)
    re = tl.reshape(re, (V, S * C))
    im = tl.reshape(im, (V, S * C))

    filter_at = spectra + (layer * spectra_rows + spectra_offset + node * M) * 2 * FILTER_LANES
    filter_at += s * (V * 2 * FILTER_LANES) + filter_row
    kept += ((layer * batch + row) * kept_rows + kept_offset + node * M) * 2 * LANES
    kept_at = kept + (s * (V * 2 * LANES) + channel)
    re, im = multiply_spectra(
        re, im, filter_at, v * (2 * FILTER_LANES), kept_at, v * (2 * LANES),
        n, start, blocks, radix, slots, extra, LANES, FILTER_LANES, KEEPS, N,
    )  # fmt: skip

    re, im = merge_tree(tl.reshape(re, (V, S, C)), tl.reshape(im, (V, S, C)), table, V, S, C)
    tl.store(at + step, tl.reshape(re, (V, S * C)))
    tl.store((at + UNIT) + step, tl.reshape(im, (V, S * C)))


@triton.jit(
    do_not_specialize=[
        "batch", "length", "open_slots", "late", "first_unit", "first_layer", "units",
    ]
)  # fmt: skip
def merge_block_kernel(
    scratch, ring, open_block, positions, rows, twist,
    batch, length, open_slots, late, first_unit, first_layer, units,
    ALL_ROWS: tl.constexpr, T: tl.constexpr, V: tl.constexpr, M: tl.constexpr, K: tl.constexpr,
    C: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Grid and tensors of split_block. Adds to the ring, inside the block and the stream, and as
    future_fill to the open block.
    """
    unit, channel, begin = own_part(units, K, C)
    k = begin + tl.arange(0, K * C) // C
    s = tl.arange(0, V)[:, None]
    row = tl.program_id(1)
    row = row.to(tl.int64) if ALL_ROWS else tl.load(rows + row)
    if not ALL_ROWS:  # noqa: SIM102, this condition is of the compiler
        if row < 0:
            return
    position = newest_end(positions, row, T)
    layer = (first_layer + tl.program_id(2)).to(tl.int64)
    first = position + late
    state = layer * batch + row
    to = ring + (state * length + first) * LANES
    channel_at = (first_unit + unit) * C + channel
    to = to + (k * LANES + channel_at)[None, :] + s * (M * LANES)
    inside = s * M < (tl.minimum(length - first, T) - k)[None, :]
    if open_block is None:  # asked for before the nodes are awaited
        pending = tl.load(to, mask=inside, other=0.0).to(tl.float32)
    block = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    at = scratch + (block * units + unit) * (V * M * 2 * C) + (k * (2 * C) + channel)[None, :]
    at += s * (M * 2 * C)
    re = tl.load(at)
    im = tl.load(at + C)
    cos, sin = load_twist(twist, begin, V, M, K, C)
    untwisted = re * cos + im * sin
    im = im * cos - re * sin
    re, im = merge_first(tl.reshape(untwisted, (V, K, C)), tl.reshape(im, (V, K, C)), V, K, C)
    filled = tl.reshape(im, (V, K * C))
    if open_block is None:
        tl.store(to, pending + filled, mask=inside)
    else:
        opening = open_block + state * open_slots * LANES
        index = s * M + k[None, :]
        opening += index * LANES + channel_at[None, :]
        add_to_slots(to, opening, index, inside, open_slots, filled)
