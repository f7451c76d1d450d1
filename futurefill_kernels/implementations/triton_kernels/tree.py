"""The transform modulo ``x^n - i`` as a binary tree of polynomial remainders, in registers.

A node ``x^N - c`` splits into ``x^(N/2) - s`` and ``x^(N/2) + s``, ``s = sqrt(c)``: one twiddle
per node, and leaves come in the order of spectra.tree_order. Nodes of one depth are the same for
every ``n``, so one table in heap order serves all sizes. Above 256 entries the polynomial is first
reduced modulo ``x^M - rho_r``, ``M = n / R``, for one of its R residues at a time; the subtree of
residue r is node r of depth log2 R.

Three depths at a time are done on the eight values that a thread holds; only between such groups do
values change threads. Triton gives threads to a tensor's last dimensions first, so a group keeps
what it works on in the first ones, as [P, K, N, H, C]: of each of N nodes P children, of each child
K coefficients ``k H + h``.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Where the pairs (cosine, sine) of even nodes, then of powers of rho, start in the table, which
#: begins with a heap of 2048 nodes.
EVEN = tl.constexpr(2 * 2048)
POWERS = tl.constexpr(2 * 3072)
#: Children of a node after one group.
GROUP = tl.constexpr(8)


@lru_cache(maxsize=16)
def twiddle_table(device: torch.device) -> Tensor:
    """Pairs (cosine, sine), flat float32; made in float64, once per device.

    Pair ``2^d + k`` belongs to node k of depth d, pair ``2048 + j`` repeats pair 2j, and powers
    ``rho_r^m`` of R residues follow at ``3072 + (R R - 4) / 3 + r R + m``.
    """
    angles, depth = [0.0], [0.25]  # turns
    residues: dict[int, list[float]] = {}
    while len(angles) < 2048:
        residues[len(depth)] = depth
        angles += [c / 2 for c in depth]
        depth = [child for c in depth for child in (c / 2, c / 2 + 0.5)]
    angles += angles[::2]
    angles += [rho * m for r in (2, 4, 8) for rho in residues[r] for m in range(r)]
    turns = torch.tensor(angles, dtype=torch.float64, device="cpu") * (2 * torch.pi)
    return torch.stack([turns.cos(), turns.sin()], 1).flatten().float().to(device)


@triton.constexpr_function
def first_group(leaves: int) -> int:
    """Children of the root after the first group."""
    return min(leaves, GROUP.value)


@triton.constexpr_function
def last_group(leaves: int) -> int:
    """Leaves below a node before the last group, the only one that may be smaller."""
    while leaves > GROUP.value:
        leaves //= GROUP.value
    return leaves


@triton.constexpr_function
def depths(leaves: int) -> int:
    """Depths of a tree."""
    return leaves.bit_length() - 1


@triton.jit
def halves(x, P: tl.constexpr, K: tl.constexpr, N: tl.constexpr, H: tl.constexpr, C: tl.constexpr):
    """[2 P K, N, H, C] as (P, 2, K) -> the two of the middle one, [P, K, N, H, C] each."""
    return tl.split(tl.permute(tl.reshape(x, (P, 2, K, N, H, C)), (0, 2, 3, 4, 5, 1)))


@triton.jit
def whole(a, b):
    """The inverse of halves, as [P, 2, K, N, H, C]."""
    return tl.permute(tl.join(a, b), (0, 5, 1, 2, 3, 4))


@triton.jit
def twiddles(table, subtree, P: tl.constexpr, N: tl.constexpr):
    """Cosine and sine of node ``n P + p`` of the depth of N P nodes, [P, 1, N, 1, 1] each.

    A right child's twiddle is i times its sibling's, so one pair is read for both.
    """
    node = tl.arange(0, N)[None, None, :, None, None, None]
    part = tl.arange(0, 2)[None, None, None, None, None, :]
    if P == 1:
        return tl.split(tl.load((table + 2 * subtree * N) + (2 * node + part)))
    else:
        even = node * (P // 2) + tl.arange(0, P // 2)[:, None, None, None, None, None]
        cos, sin = tl.split(tl.load((table + EVEN + subtree * N * P) + (2 * even + part)))
        return (
            tl.reshape(whole(cos, -sin), (P, 1, N, 1, 1)),
            tl.reshape(whole(sin, cos), (P, 1, N, 1, 1)),
        )


@triton.jit
def split_depth(
    re, im, table, subtree,
    P: tl.constexpr, K: tl.constexpr, N: tl.constexpr, H: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One depth down: [P, 2 K, N, H, C] -> [2 P, K, N, H, C]. im: None for real inputs."""
    cos, sin = twiddles(table, subtree, P, N)
    a_re, b_re = halves(re, P, K, N, H, C)
    # a + w b, and a - w b as 2 a - (a + w b): six multiply-adds for eight operations
    p_re = a_re + b_re * cos
    if im is None:
        p_im = b_re * sin
        q_im = -p_im
    else:
        a_im, b_im = halves(im, P, K, N, H, C)
        p_re += b_im * -sin
        p_im = a_im + b_im * cos
        p_im += b_re * sin
        q_im = 2 * a_im - p_im
    q_re = 2 * a_re - p_re
    return whole(p_re, q_re), whole(p_im, q_im)


@triton.jit
def merge_depth(
    re, im, table, subtree,
    P: tl.constexpr, K: tl.constexpr, N: tl.constexpr, H: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """One depth up, without the factor 1/2: [2 P, K, N, H, C] -> [P, 2 K, N, H, C]."""
    cos, sin = twiddles(table, subtree, P, N)
    l_re, r_re = halves(re, P, K, N, H, C)
    l_im, r_im = halves(im, P, K, N, H, C)
    d_re = l_re - r_re
    d_im = l_im - r_im
    return (
        whole(l_re + r_re, d_re * cos + d_im * sin),
        whole(l_im + r_im, d_im * cos + d_re * -sin),
    )


@triton.jit
def next_group(
    x, K: tl.constexpr, N: tl.constexpr, H: tl.constexpr, C: tl.constexpr, J: tl.constexpr
):
    """K children of N nodes as N K nodes with J coefficients at hand, [J, N K, H / J, C]."""
    x = tl.permute(tl.reshape(x, (K, N, H, C)), (1, 0, 2, 3))
    return tl.permute(tl.reshape(x, (N * K, J, H // J, C)), (1, 0, 2, 3))


@triton.jit
def previous_group(
    x, K: tl.constexpr, N: tl.constexpr, H: tl.constexpr, C: tl.constexpr, J: tl.constexpr
):
    """The inverse of next_group."""
    x = tl.permute(tl.reshape(x, (J, N * K, H // J, C)), (1, 0, 2, 3))
    return tl.permute(tl.reshape(x, (N, K, H, C)), (1, 0, 2, 3))


@triton.jit
def split_tree(re, im, table, subtree, N: tl.constexpr, M: tl.constexpr, C: tl.constexpr):
    """Coefficients ``k M / K + h`` of N nodes x^M - c, [K, N, M / K, C], to their leaves.

    im: None for real inputs. Returns leaves ``n J + j`` as [J, N M / J, C]. K: first_group(M); J:
    last_group(M).
    """
    K: tl.constexpr = first_group(M)
    H: tl.constexpr = M // K
    for g in tl.static_range(depths(K)):
        re, im = split_depth(re, im, table, subtree, 2**g, K // 2 ** (g + 1), N, H, C)
    if H == 1:
        return tl.reshape(re, (K, N, C)), tl.reshape(im, (K, N, C))
    else:
        re = next_group(re, K, N, H, C, first_group(H))
        im = next_group(im, K, N, H, C, first_group(H))
        return split_tree(re, im, table, subtree, N * K, H, C)


@triton.jit
def merge_tree(re, im, table, subtree, N: tl.constexpr, M: tl.constexpr, C: tl.constexpr):
    """The inverse of split_tree without the factor 1/M; returns [K, N M / K, C]."""
    K: tl.constexpr = first_group(M)
    H: tl.constexpr = M // K
    if H > 1:
        re, im = merge_tree(re, im, table, subtree, N * K, H, C)
        re = previous_group(re, K, N, H, C, first_group(H))
        im = previous_group(im, K, N, H, C, first_group(H))
    for g in tl.static_range(depths(K)):
        re, im = merge_depth(re, im, table, subtree, K // 2 ** (g + 1), 2**g, N, H, C)
    return tl.reshape(re, (K, N * H, C)), tl.reshape(im, (K, N * H, C))
