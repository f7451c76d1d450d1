"""A look at this processor within a second: the shipped rates, scaled to what it takes here.

Steps and fills of a few block sizes, and the products of one size with their data in each cache,
are measured as ``tune`` does it; what lies between keeps its proportions. Factors of several
threads stay as shipped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .measure_cpu import (
    budgets,
    call_ns,
    measured_last_level_bytes,
    single_ns,
    step_ns,
    tier_times,
)  # fmt: skip
from .processor import second_level_bytes

STEP_BLOCKS = (8, 32, 128)
#: Direct products, and transforms of few and of many passes.
FILL_BLOCKS = (16, 128, 2048)
#: Of this block all that a firing can be, with its data in every cache.
PRODUCT_BLOCK = 256
#: Bytes of a firing that must come from memory: the state around them is allocated for it.
_LARGEST = 32 << 20
#: Largest factor of products and of what is kept.
_MOST = 4.0
#: Seconds for each time, at least five calls.
_EACH = 0.005


def probe(shipped: Mapping[str, Any]) -> dict[str, Any]:
    """Rates of this processor as ``CpuRates.from_dict`` takes them.

    shipped: those of its instruction set. Raises RuntimeError on a machine that is too busy.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        last_level = measured_last_level_bytes()
        call, touched = call_ns(_EACH), budgets(last_level)
        steps = {block: step_ns(block, _EACH) for block in STEP_BLOCKS}
        singles = {
            block: single_ns(block, max(16, touched["l2"] // (16 * block)), call, _EACH)
            for block in FILL_BLOCKS
        }
        touched["dram"] = min(touched["dram"], _LARGEST)
        products = [tier[2] for tier in tier_times(PRODUCT_BLOCK, _EACH, call, touched)]
    finally:
        torch.set_num_threads(threads)
    step_scales = scales(shipped["steps"], steps)
    fills = shipped["fills"]
    fill_scales = scales([(block, tiers[0][0]) for block, tiers in fills], singles)
    known = dict(fills)[PRODUCT_BLOCK]
    # differences of two times, which another program may have disturbed
    far = [
        min(max(ns / tier[2], 1 / _MOST), _MOST)
        for ns, tier in zip(products[1:], known[1:], strict=True)
    ]
    return {
        **shipped,
        "steps": [
            [block, ns * scale]
            for (block, ns), scale in zip(shipped["steps"], step_scales, strict=True)
        ],
        "fills": [
            [block, _fill(tiers, scale, [scale, *far])]
            for (block, tiers), scale in zip(fills, fill_scales, strict=True)
        ],
        "firing_ns": shipped["firing_ns"] * math.prod(step_scales) ** (1 / len(step_scales)),
        "l2_bytes": second_level_bytes(),
        "last_level_bytes": last_level,
    }


def scales(shipped: Sequence[tuple[int, float]], found: Mapping[int, float]) -> list[float]:
    """Of every shipped time, what it is multiplied with: log-linear between measured blocks.

    shipped: (block, ns). found: ns by block, which are among the shipped ones.
    """
    known = dict(shipped)
    points = [(math.log2(block), math.log(ns / known[block])) for block, ns in found.items()]
    return [math.exp(_interpolated(sorted(points), math.log2(block))) for block, _ in shipped]


def _fill(
    tiers: Sequence[Sequence[float]], scale: float, far: Sequence[float]
) -> list[list[float]]:
    """[single, keep, product] of every tier; a farther tier is never cheaper.

    far: for each tier, the factor of what is read and written beside the transform.
    """
    result: list[list[float]] = []
    for (single, keep, product), factor in zip(tiers, far, strict=True):
        found = [single * scale, keep * factor, product * factor]
        nearer = result[-1] if result else found
        result.append([max(pair) for pair in zip(found, nearer, strict=True)])
    return result


def _interpolated(points: Sequence[tuple[float, float]], x: float) -> float:
    """Linear between the points, constant outside of them."""
    if x <= points[0][0]:
        return points[0][1]
    for (a, at_a), (b, at_b) in itertools.pairwise(points):
        if x <= b:
            return at_a + (at_b - at_a) * (x - a) / (b - a)
    return points[-1][1]
