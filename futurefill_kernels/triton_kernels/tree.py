"""The transform modulo ``x^n - i`` as a binary tree of polynomial remainders, in registers.

A node ``x^N - c`` splits into ``x^(N/2) - s`` and ``x^(N/2) + s``, ``s = sqrt(c)``: one twiddle
per node, and leaves come in the order of spectra.tree_order. Nodes of one depth are the same for
every ``n``, so one table in heap order serves all sizes. Above 256 entries the polynomial is first
reduced modulo ``x^M - rho_r``, ``M = n / R``, for one of its R residues at a time; the subtree of
residue r is node r of depth log2 R.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Entries of each half (cosines, sines) of the table: a heap of 2048 nodes, its 1024 even nodes,
#: then powers of rho.
TABLE = tl.constexpr(3200)
PAIRS = tl.constexpr(2048)
POWERS = tl.constexpr(3072)


@lru_cache(maxsize=16)
def twiddle_table(device: torch.device) -> Tensor:
    """(2, 3200) float32 cosines and sines; made in float64, once per device.

    Entry ``2^d + k`` belongs to node k of depth d, and ``2048 + j`` repeats entry 2j. Powers
    ``rho_r^m`` of R residues follow at ``3072 + (R R - 4) / 3 + r R + m``.
    """
    angles, depth = [0.0], [0.25]  # turns
    residues: dict[int, list[float]] = {}
    while len(angles) < PAIRS.value:
        residues[len(depth)] = depth
        angles += [c / 2 for c in depth]
        depth = [child for c in depth for child in (c / 2, c / 2 + 0.5)]
    angles += angles[::2]
    for r in (2, 4, 8):
        angles += [rho * m for rho in residues[r] for m in range(r)]
    turns = torch.tensor(angles, dtype=torch.float64) * (2 * torch.pi)
    table = torch.zeros(2, TABLE.value, dtype=torch.float32)
    table[0, : len(angles)], table[1, : len(angles)] = turns.cos(), turns.sin()
    return table.to(device)


@triton.constexpr_function
def shared_nodes(leaves: int, most: int) -> int:
    """Widest depth whose siblings share a twiddle; trees below 128 leaves move few twiddles."""
    return most if leaves >= 256 else 8 if leaves == 128 else 1


@triton.constexpr_function
def depths(leaves: int, nodes: int) -> int:
    """Depths of a tree between ``nodes`` roots and its leaves."""
    return leaves.bit_length() - nodes.bit_length()


@triton.jit
def halves(x, NODES: tl.constexpr, HALF: tl.constexpr, C: tl.constexpr):
    """[NODES, 2 HALF, C] -> low and high coefficients of every node, [NODES, HALF, C] each."""
    return tl.split(tl.permute(tl.reshape(x, (NODES, 2, HALF, C)), (0, 2, 3, 1)))


@triton.jit
def interleave(a, b, NODES: tl.constexpr, HALF: tl.constexpr, C: tl.constexpr):
    """Two [NODES, HALF, C] -> [2 NODES, HALF, C] with children of a node side by side."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 3, 1, 2)), (2 * NODES, HALF, C))


@triton.jit
def concatenate(a, b, NODES: tl.constexpr, HALF: tl.constexpr, C: tl.constexpr):
    """Two [NODES, HALF, C] -> [NODES, 2 HALF, C]; the inverse of halves."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 3, 1, 2)), (NODES, 2 * HALF, C))


@triton.jit
def twiddles(table, subtree, NODES: tl.constexpr, SHARED: tl.constexpr):
    """Cosine and sine of the nodes of one depth below a subtree's root, [NODES, 1, 1] each.

    A right child's twiddle is i times its sibling's, so depths of 2 to SHARED nodes read one entry
    for both. Wider depths gain no sectors by it, and each one adds shared-memory conflicts.
    """
    if NODES > 1 and NODES <= SHARED:
        pair = PAIRS + subtree * (NODES // 2) + tl.arange(0, NODES // 2)[:, None, None]
        cos = tl.load(table + pair)
        sin = tl.load(table + TABLE + pair)
        return interleave(cos, -sin, NODES // 2, 1, 1), interleave(sin, cos, NODES // 2, 1, 1)
    node = subtree * NODES + tl.arange(0, NODES)[:, None, None]
    return tl.load(table + node), tl.load(table + TABLE + node)


@triton.jit
def split_depth(
    re, im, table, subtree,
    NODES: tl.constexpr, HALF: tl.constexpr, C: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """One depth down: [NODES, 2 HALF, C] -> [2 NODES, HALF, C]."""
    cos, sin = twiddles(table, subtree, NODES, SHARED)
    a_re, b_re = halves(re, NODES, HALF, C)
    a_im, b_im = halves(im, NODES, HALF, C)
    t_re = b_re * cos - b_im * sin
    t_im = b_re * sin + b_im * cos
    return (
        interleave(a_re + t_re, a_re - t_re, NODES, HALF, C),
        interleave(a_im + t_im, a_im - t_im, NODES, HALF, C),
    )


@triton.jit
def merge_depth(
    re, im, table, subtree,
    NODES: tl.constexpr, HALF: tl.constexpr, C: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """One depth up, without the factor 1/2: [2 NODES, HALF, C] -> [NODES, 2 HALF, C]."""
    cos, sin = twiddles(table, subtree, NODES, SHARED)
    l_re, r_re = halves(tl.reshape(re, (NODES, 2 * HALF, C)), NODES, HALF, C)
    l_im, r_im = halves(tl.reshape(im, (NODES, 2 * HALF, C)), NODES, HALF, C)
    d_re = l_re - r_re
    d_im = l_im - r_im
    return (
        concatenate(l_re + r_re, d_re * cos + d_im * sin, NODES, HALF, C),
        concatenate(l_im + r_im, d_im * cos - d_re * sin, NODES, HALF, C),
    )


@triton.jit
def split_tree(re, im, table, subtree, NODES: tl.constexpr, LEAVES: tl.constexpr, C: tl.constexpr):
    """[NODES, LEAVES / NODES, C] -> values at the leaves, [LEAVES, 1, C]."""
    for d in tl.static_range(depths(LEAVES, NODES)):
        re, im = split_depth(
            re, im, table, subtree, NODES * 2**d, LEAVES // NODES // 2 ** (d + 1), C,
            shared_nodes(LEAVES, 16),
        )  # fmt: skip
    return re, im


@triton.jit
def merge_tree(re, im, table, subtree, NODES: tl.constexpr, LEAVES: tl.constexpr, C: tl.constexpr):
    """[LEAVES, 1, C] -> coefficients, [NODES, LEAVES / NODES, C]; inverse of split_tree."""
    for d in tl.static_range(depths(LEAVES, NODES)):
        re, im = merge_depth(
            re, im, table, subtree, LEAVES // 2 ** (d + 1), 2**d, C, shared_nodes(LEAVES, 16)
        )
    return re, im
