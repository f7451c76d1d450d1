"""The id of the largest logit of one row, from each program's largest."""

from __future__ import annotations

import triton
import triton.language as tl

from .dependent_launch import start_next, wait_for_last


@triton.jit
def greedy_kernel(best, best_id, token, n, TILE: tl.constexpr, PDL: tl.constexpr):
    """token (1,) int64 = the lowest id of the largest. Grid: (1,).

    best: (n,) float32 and best_id: (n,) int32, ascending, as `norm_logits_kernel` leaves them.
    """
    start_next(PDL)
    lane = tl.arange(0, TILE)
    most = tl.full((TILE,), float("-inf"), tl.float32)
    lowest = tl.full((TILE,), 2147483647, tl.int32)
    wait_for_last(PDL)
    for start in range(0, n, TILE):
        real = start + lane < n
        value = tl.load(best + start + lane, mask=real, other=float("-inf"))
        at = tl.load(best_id + start + lane, mask=real, other=2147483647)
        better = (value > most) | ((value == most) & (at < lowest))
        most = tl.where(better, value, most)
        lowest = tl.where(better, at, lowest)
    found = tl.min(tl.where(most == tl.max(most, 0), lowest, 2147483647), 0)
    tl.store(token, found.to(tl.int64))
