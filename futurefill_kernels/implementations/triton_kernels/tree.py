"""The transform modulo ``x^n - i`` as a binary tree of polynomial remainders, in registers.

A node ``x^N - c`` splits into ``x^(N/2) - s`` and ``x^(N/2) + s``, ``s = sqrt(c)``: one twiddle
per node, and leaves come in the order of spectra.tree_order. Nodes of one depth are the same for
every ``n``, so one table in heap order serves all sizes.

A thread holds V values of one channel, and ``n = V S`` with ``S <= V``: the first log2 V depths
meet only values of one thread, then one exchange brings together what the other log2 S depths need,
and the inverse has one exchange back. Tensors are [V, S, C]: Triton gives threads to the last
dimensions first, so that V, where there are S C threads, stays in registers. Their order:

* coefficients: ``v S + s`` at [v, s], a thread's S apart;
* leaves: ``s V + v`` at [v, s], a thread's V side by side.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Nodes in the table: depths of a transform of this many values.
TABLE_NODES = 4096


@lru_cache(maxsize=16)
def twiddle_table(device: torch.device) -> Tensor:
    """(4096,) int64: pairs of float32, cosine in the lower half, sine in the upper one.

    Entry ``2^d + k`` is the twiddle ``s`` of node k of depth d; made in float64, once per device.
    """
    angles, depth = [0.0], [0.25]  # turns
    while len(angles) < TABLE_NODES:
        angles += [c / 2 for c in depth]
        depth = [child for c in depth for child in (c / 2, c / 2 + 0.5)]
    turns = torch.tensor(angles, dtype=torch.float64, device="cpu") * (2 * torch.pi)
    pairs = torch.stack([turns.cos(), turns.sin()], 1).float()
    return pairs.view(torch.int64)[:, 0].to(device)


@triton.constexpr_function
def log2(n: int) -> int:
    """Of a power of two."""
    return n.bit_length() - 1


@triton.constexpr_function
def twiddle(depth: int, node: int, sine: bool) -> float:
    """Cosine or sine of ``s`` of a node, as `twiddle_table` has them."""
    c = 0.25
    for bit in range(depth - 1, -1, -1):
        c = c / 2 + 0.5 * ((node >> bit) & 1)
    return (math.sin if sine else math.cos)(math.pi * c)


@triton.jit
def first_twiddles(DEPTH: tl.constexpr):
    """Cosine and sine of all nodes of a depth, [2^DEPTH, 1, 1, 1]: numbers in the instructions."""
    node = tl.arange(0, 2**DEPTH)[:, None, None, None]
    cos = tl.full([2**DEPTH, 1, 1, 1], twiddle(DEPTH, 0, False), tl.float32)
    sin = tl.full([2**DEPTH, 1, 1, 1], twiddle(DEPTH, 0, True), tl.float32)
    for k in tl.static_range(1, 2**DEPTH):
        cos = tl.where(node == k, twiddle(DEPTH, k, False), cos)
        sin = tl.where(node == k, twiddle(DEPTH, k, True), sin)
    return cos, sin


@triton.jit
def side_by_side(x, P: tl.constexpr):
    """A tuple of P tensors [n] as one [n, 2, 2, ...], the index's high bit first."""
    if P == 1:
        return x[0]
    else:
        y = ()
        for k in tl.static_range(P // 2):
            y = y + (tl.join(x[k], x[k + P // 2]),)
        return side_by_side(y, P // 2)


@triton.jit
def later_twiddles(
    table, node, NODES: tl.constexpr, P: tl.constexpr, S: tl.constexpr, C: tl.constexpr
):
    """Cosine and sine of nodes ``node P + p`` of the depth of NODES nodes, [P, 1, S, C].

    node: [S C]. A right child's twiddle is i times its sibling's, so one pair is read for both.
    """
    at = table + (NODES + node * P)
    cosines = ()
    sines = ()
    for p in tl.static_range(0, P, 2):
        pair = tl.load(at + p)
        cos = pair.to(tl.int32).to(tl.float32, bitcast=True)
        sin = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        if P == 1:
            cosines = cosines + (cos,)
            sines = sines + (sin,)
        else:
            cosines = cosines + (cos, sin * -1.0)
            sines = sines + (sin, cos)
    cos = tl.permute(tl.reshape(side_by_side(cosines, P), (S * C, P)), (1, 0))
    sin = tl.permute(tl.reshape(side_by_side(sines, P), (S * C, P)), (1, 0))
    return tl.reshape(cos, (P, 1, S, C)), tl.reshape(sin, (P, 1, S, C))


@triton.jit
def halves(x, P: tl.constexpr, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    """[V, S, C] as [P, 2, V / 2 P, S, C] -> the two, [P, V / 2 P, S, C] each."""
    return tl.split(tl.permute(tl.reshape(x, (P, 2, V // P // 2, S, C)), (0, 2, 3, 4, 1)))


@triton.jit
def whole(a, b, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    """The inverse of halves."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 4, 1, 2, 3)), (V, S, C))


# In both depths a negation is a product with -1, which becomes part of a multiply-add; ``-x`` is
# ``0 - x`` in Triton and stays an addition.


@triton.jit
def split_depth(
    re, im, cos, sin, P: tl.constexpr, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr
):
    """One depth down in each of a thread's P nodes. im: None for real inputs."""
    a_re, b_re = halves(re, P, V, S, C)
    # a + s b, and a - s b as 2 a - (a + s b): six multiply-adds for eight operations
    p_re = a_re + b_re * cos
    if im is None:
        p_im = b_re * sin
        q_im = p_im * -1.0
    else:
        a_im, b_im = halves(im, P, V, S, C)
        p_re = p_re - b_im * sin
        p_im = a_im + b_im * cos
        p_im = p_im + b_re * sin
        q_im = tl.fma(a_im, 2.0, p_im * -1.0)
    q_re = tl.fma(a_re, 2.0, p_re * -1.0)
    return whole(p_re, q_re, V, S, C), whole(p_im, q_im, V, S, C)


@triton.jit
def merge_depth(
    re, im, cos, sin, P: tl.constexpr, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr
):
    """One depth up, without the factor 1/2, to P nodes in each thread."""
    l_re, r_re = halves(re, P, V, S, C)
    l_im, r_im = halves(im, P, V, S, C)
    d_re = l_re - r_re
    d_im = l_im - r_im
    return (
        whole(l_re + r_re, d_re * cos + d_im * sin, V, S, C),
        whole(l_im + r_im, d_im * cos - d_re * sin, V, S, C),
    )


@triton.jit
def to_leaves(x, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    """V nodes with a coefficient at each of S threads -> at each of S threads V / S nodes with all
    their S coefficients: node ``t V / S + j``, coefficient k, to [j S + k, t].
    """
    x = tl.reshape(x, (S, V // S, S, C))
    return tl.reshape(tl.permute(x, (1, 2, 0, 3)), (V, S, C))


@triton.jit
def to_coefficients(x, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    """The inverse of to_leaves."""
    x = tl.reshape(x, (V // S, S, S, C))
    return tl.reshape(tl.permute(x, (2, 0, 1, 3)), (V, S, C))


@triton.jit
def split_first(re, im, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    """The first log2 V depths of coefficients [V, S, C]: V nodes with S coefficients each. im: None
    for real ones.
    """
    for g in tl.static_range(log2(V)):
        cos, sin = first_twiddles(g)
        re, im = split_depth(re, im, cos, sin, 2**g, V, S, C)
    return re, im


@triton.jit
def merge_first(re, im, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    """The inverse of split_first for complex coefficients, without the factor 1/V."""
    for g in tl.static_range(log2(V) - 1, -1, -1):
        cos, sin = first_twiddles(g)
        re, im = merge_depth(re, im, cos, sin, 2**g, V, S, C)
    return re, im


@triton.jit
def split_tree(re, im, table, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    """Values at the leaves of a polynomial's coefficients [V, S, C], im None for a real one: real
    and imaginary.
    """
    re, im = split_first(re, im, V, S, C)
    if im is None:  # V = 1: the polynomial is its value
        im = re * 0.0
    if S > 1:
        re = to_leaves(re, V, S, C)
        im = to_leaves(im, V, S, C)
        thread = tl.arange(0, S * C) // C
        for g in tl.static_range(log2(S)):
            cos, sin = later_twiddles(table, thread, V * 2**g, V // S * 2**g, S, C)
            re, im = split_depth(re, im, cos, sin, V // S * 2**g, V, S, C)
    return re, im


@triton.jit
def merge_tree(re, im, table, V: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    """The inverse of split_tree for complex coefficients, without the factor 1/n."""
    if S > 1:
        thread = tl.arange(0, S * C) // C
        for g in tl.static_range(log2(S) - 1, -1, -1):
            cos, sin = later_twiddles(table, thread, V * 2**g, V // S * 2**g, S, C)
            re, im = merge_depth(re, im, cos, sin, V // S * 2**g, V, S, C)
        re = to_coefficients(re, V, S, C)
        im = to_coefficients(im, V, S, C)
    return merge_first(re, im, V, S, C)
