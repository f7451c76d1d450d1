"""Plans for GPUs: the fastest one that fits the memory, or what would fit instead."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any

import torch

from ..plan import Plan
from .capabilities import planned_for
from .device import DeviceInfo
from .gpu_cost import GpuCost
from .latency import slack_plan
from .memory import (
    first_nbytes,
    kept_nbytes,
    level_nbytes,
    needed_nbytes,
    spectra_nbytes,
    usable_bytes,
)
from .search import cheapest_block_sizes
from .small import (
    MEMORY,
    keeps_little,
    longest_first_block,
    made_small,
    made_where_cheap,
)
from .workload import Workload

#: Candidates for the block of the short-range convolution.
FIRST_BLOCKS = tuple(1 << k for k in range(3, 9))
#: Longest stream that may be planned without a fill, as one short-range convolution.
LONGEST_FIRST_BLOCK = 4096
#: Prices of a held byte, in seconds per token, tried in turn until a plan fits.
PRICES = (0.0, *(1e-20 * 2.0**k for k in range(22)), 1.0)


@lru_cache(maxsize=256)
def cheapest_plan(workload: Workload, info: DeviceInfo, memory: str = "speed") -> Plan:
    """The fastest plan that fits the device's memory; one that makes more filter spectra when
    levels fire where no other does.

    Raises ValueError with the bytes needed, and with what would fit, when none does.
    """
    limit, cost = usable_bytes(info), GpuCost(workload, info)
    for choice in MEMORY[MEMORY.index(memory) :]:
        for seconds_per_byte in PRICES:
            plan = _search(workload, info, seconds_per_byte, choice)
            if not keeps_little(plan, workload, choice) and seconds_per_byte != PRICES[-1]:
                continue
            plan = made_small(plan) if choice == "small" else made_where_cheap(plan, cost)
            if needed_nbytes(workload, plan) <= limit:
                return plan
    w, spectra = workload, spectra_nbytes(workload, plan.spectra_rows)
    found = "; ".join(proposals(workload, info))
    raise ValueError(
        f"a stream of length {w.length}, {w.channels} channels, batch_size {w.batch_size}, "
        f"{w.layers} layers and {w.groups} filter rows needs at least {needed_nbytes(w, plan)} "
        f"bytes with any block sizes ({spectra} of them filter spectra), {info.name} has "
        f"{info.memory_bytes} bytes, of which {limit} may be used; "
        + (f"any one of these fits: {found}" if found else "no smaller size fits either")
    )


@lru_cache(maxsize=256)
def leanest_plan(workload: Workload, info: DeviceInfo) -> Plan:
    """The plan that holds the fewest bytes, fits or not."""
    return made_small(_search(workload, info, PRICES[-1], "small"))


def latency_plan(workload: Workload, info: DeviceInfo) -> Plan:
    """Plan for the shortest longest step; a block above those of one launch would be a slow one.

    Raises ValueError with the bytes needed when it does not fit the device's memory.
    """
    plan = slack_plan(workload, GpuCost(workload, info), workload.largest_fused)
    needed, limit = needed_nbytes(workload, plan), usable_bytes(info)
    if needed > limit:
        raise ValueError(
            f"a plan without slow steps needs {needed} bytes, of {info.name}'s memory {limit} may "
            "be used; objective='throughput' may need fewer"
        )
    return plan


@lru_cache(maxsize=256)
def proposals(workload: Workload, info: DeviceInfo) -> tuple[str, ...]:
    """The largest change of each kind that fits the device's memory, with its bytes."""
    w, found = workload, []
    half = planned_for("auto", torch.bfloat16)
    smaller = replace(w, spectra_itemsize=torch.bfloat16.itemsize, impls=half)
    if w.spectra_itemsize > smaller.spectra_itemsize and (
        fitting := _first_that_fits([smaller], info)
    ):
        found.append(f"spectra_dtype = torch.bfloat16 ({fitting[1]} bytes, impl='triton')")
    for names, narrower in _in_16_bits(w).items():
        if fitting := _first_that_fits([narrower], info):
            found.append(f"{names} = torch.bfloat16 ({fitting[1]} bytes)")
    sizes = {
        "groups": [g for g in range(w.groups - 1, 0, -1) if w.groups % g == w.channels % g == 0],
        "filter_length": [max(w.filter_length * k // 8, 1) for k in range(7, 0, -1)],
        "batch_size": range(w.batch_size - 1, 0, -1),
        "layers": range(w.layers - 1, 0, -1),
        "length": [w.length >> k for k in range(1, w.length.bit_length())],
    }
    for field, values in sizes.items():
        if fitting := _first_that_fits([_resized(w, field, value) for value in values], info):
            index, nbytes = fitting
            name = "groups (filter rows that channels share)" if field == "groups" else field
            found.append(f"{name} = {values[index]} ({nbytes} bytes)")
    nbytes = needed_nbytes(w, Plan(w.length, (w.length,), w.filter_length))
    if nbytes <= usable_bytes(info):
        found.append(
            f"plan = Plan(length, ({w.length},)) ({nbytes} bytes), slow: no spectra, every tap read"
        )
    return tuple(found)


def _in_16_bits(workload: Workload) -> dict[str, Workload]:
    """What else may be kept in 16 bits, by the arguments that say so."""
    if workload.itemsize == 8:
        return {}
    two: Any = {"state_dtype": {"ring_itemsize": 2}, "filters_dtype": {"filters_itemsize": 2}}
    found = {name: replace(workload, **size) for name, size in two.items()}
    found = {name: narrower for name, narrower in found.items() if narrower != workload}
    if len(found) == 2:
        found |= {" = ".join(two): replace(workload, ring_itemsize=2, filters_itemsize=2)}
    return found


def _resized(workload: Workload, field: str, value: int) -> Workload:
    """A workload with another size; filters are no longer than it."""
    size: Any = {field: value}
    changed = replace(workload, **size)
    return replace(changed, filter_length=min(changed.length, changed.filter_length))


def _first_that_fits(falling: Sequence[Workload], info: DeviceInfo) -> tuple[int, int] | None:
    """Index of the first that fits of workloads that need ever fewer bytes, and its bytes."""

    def needs(workload: Workload) -> int:
        return needed_nbytes(workload, leanest_plan(workload, info))

    limit = usable_bytes(info)
    index = bisect_left(falling, True, key=lambda workload: needs(workload) <= limit)
    return (index, needs(falling[index])) if index < len(falling) else None


@lru_cache(maxsize=64)
def _seconds(
    workload: Workload, info: DeviceInfo
) -> tuple[Callable[[int], float], Callable[[int, int], float]]:
    """What first blocks and levels cost, each looked at once for all prices of memory."""
    cost = GpuCost(workload, info)
    return cache(cost.first), cache(cost.level)


def _search(workload: Workload, info: DeviceInfo, seconds_per_byte: float, memory: str) -> Plan:
    """Cheapest plan when a byte of memory has a price."""
    first, level = _seconds(workload, info)
    # spectra of a small plan are made
    held = kept_nbytes if memory == "small" else level_nbytes
    longest = min(LONGEST_FIRST_BLOCK, longest_first_block(workload, memory))

    def first_cost(block: int) -> float:
        if block > longest:
            return math.inf
        return first(block) + first_nbytes(workload, block) * seconds_per_byte

    def level_cost(block: int, radix: int) -> float:
        return level(block, radix) + held(workload, block, radix) * seconds_per_byte

    sizes = cheapest_block_sizes(
        workload.length, FIRST_BLOCKS, first_cost, level_cost, taps=workload.filter_length
    )
    return Plan(workload.length, sizes, workload.filter_length)
