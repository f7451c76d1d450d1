"""What a plan costs on a CPU: measured times of short-range steps and of fills of every block size,
with their data in the second-level cache, in the last-level cache and in memory.

Times are per token and channel of one thread. The shipped times are in ``cpu_rates.json``; ``python
-m futurefill_kernels tune`` measures those of this machine.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from . import _extension, tuning
from .device import DeviceInfo, processor
from .plan import Plan
from .search import Stream, cheapest_block_sizes, level_firings

#: Where a level's data are when it fires.
TIERS = ("l2", "l3", "dram")
#: Bytes per token and channel that a stream touches between two firings of a level.
TOUCHED = 20
#: One firing whatever its size, set by hand: first blocks of 16 then win at few channels, as timed.
FIRING_NS = 150.0


@dataclass(frozen=True)
class Fill:
    """One firing of one channel, in ns: with one product, what storing the newest input spectrum
    adds, and what each further product adds.
    """

    single: float
    keep: float
    product: float

    def ns(self, products: float, keeps: bool) -> float:
        """A firing with some products."""
        return self.single + self.keep * keeps + self.product * (products - 1)


@dataclass(frozen=True)
class CpuRates:
    """Measured times of one thread, for float32.

    steps: (T_0, ns) of a step without fills, per channel. fills: (block, one Fill per tier).
    l2_bytes, cache_bytes: second-level cache of a core, last-level cache.
    """

    steps: tuple[tuple[int, float], ...]
    fills: tuple[tuple[int, tuple[Fill, ...]], ...]
    l2_bytes: int
    cache_bytes: int

    @classmethod
    def of(cls, info: DeviceInfo) -> CpuRates:
        """Rates stored for this processor, else the shipped ones scaled by the vector width."""
        lanes = 8
        if _extension.cpu_unavailable_reason() is None:
            lanes = _lanes()
        stored = tuning.load("cpu", processor(), lanes)
        if stored is not None:
            return cls.from_dict(stored, info)
        shipped, measured_lanes = shipped_rates()
        return cls.from_dict(shipped, info, scale=measured_lanes / lanes)

    @classmethod
    def from_dict(cls, rates: dict[str, Any], info: DeviceInfo, scale: float = 1.0) -> CpuRates:
        """Rates as ``tune`` stores them; scale: factor on times from the second-level cache."""
        steps = tuple((int(t), ns * scale) for t, ns in rates["steps"])
        fills = []
        for block, tiers in rates["fills"]:
            extra = (scale - 1) * tiers[0][0]
            fills.append((int(block), tuple(Fill(f[0] + extra, f[1], f[2]) for f in tiers)))
        return cls(steps, tuple(fills), int(rates["l2_bytes"]), info.l2_bytes)


def _lanes() -> int:
    import torch

    return _extension.cpu_lanes(torch.float32)


@lru_cache(maxsize=1)
def shipped_rates() -> tuple[dict[str, Any], int]:
    """The rates that come with the package, and the lanes of the processor they are from."""
    record = json.loads((Path(__file__).parent / "cpu_rates.json").read_text())
    return record["rates"], record["size"]


def short_range_ns(rates: CpuRates, block: int, taps: int) -> float:
    """One step's short-range convolution per channel, averaged over a block; beyond the largest
    measured block in proportion to the taps read.
    """
    known = dict(rates.steps)
    read = min(block, taps)
    if block in known and read == block:
        return known[block]
    # between two measured blocks a step costs in proportion to its taps
    (a, a_ns), *_, (b, b_ns) = rates.steps
    per_tap = (b_ns - a_ns) / ((b - a) / 2)
    average = (read * (read + 1) / 2 + (block - read) * read) / block
    return max(a_ns + per_tap * (average - (a + 1) / 2), 0.1)


def fill_ns(stream: Stream, rates: CpuRates, block: int, products: float, keeps: bool) -> float:
    """One firing of one channel of one row.

    Between two uses of a level's spectra the whole stream advances ``block`` tokens, so its data
    come from the cache that holds all that is touched meanwhile.
    """
    l2, l3, dram = _tiers(rates, block)
    touched = TOUCHED * stream.layers * stream.channels * stream.batch_size * block
    touched *= stream.itemsize // 4
    times = [tier.ns(products, keeps) for tier in (l2, l3, dram)]
    # inside a factor of two around a cache's size some of the data are there
    ns = times[0] + _beyond(touched, rates.l2_bytes) * (times[1] - times[0])
    ns += _beyond(touched, rates.cache_bytes) * (times[2] - times[1])
    # half of the bytes are spectra, read once for all rows that share them
    shared = 1 - 1 / min(stream.rows_per_filter, 8)
    return (ns - 0.5 * shared * max(ns - times[0], 0)) * stream.itemsize / 4


def level_ns(stream: Stream, rates: CpuRates, block: int, radix: int) -> float:
    """Cost of one level per token and channel."""
    spectra = min(radix - 1, -(-stream.filter_length // block))
    total = 0.0
    for products, firings in level_firings(stream, block, radix):
        keeps = spectra > 1 and (products < spectra or spectra < radix - 1)
        total += firings * fill_ns(stream, rates, block, products, keeps)
        total += firings * FIRING_NS / (stream.channels * stream.batch_size * stream.layers)
    return total / stream.length


def plan_ns(stream: Stream, rates: CpuRates, plan: Plan) -> float:
    """Modelled time per token and channel of one thread."""
    return short_range_ns(rates, plan.base, stream.filter_length) + sum(
        level_ns(stream, rates, level.block, level.radix) for level in plan.levels
    )


@lru_cache(maxsize=256)
def cheapest_plan(stream: Stream, rates: CpuRates) -> Plan:
    """The plan with the least modelled time per token."""
    sizes = cheapest_block_sizes(
        stream.length,
        [t for t, _ in rates.steps],
        lambda block: short_range_ns(rates, block, stream.filter_length),
        lambda block, radix: level_ns(stream, rates, block, radix),
    )
    return Plan(stream.length, sizes, stream.filter_length)


def _beyond(touched: float, cache_bytes: int) -> float:
    """Share of touched bytes that does not come from a cache: 0 at half its size, 1 at twice."""
    return min(1.0, max(0.0, (math.log2(max(touched, 1) / cache_bytes) + 1) / 2))


def _tiers(rates: CpuRates, block: int) -> tuple[Fill, ...]:
    """Measured times of a block's transform; beyond the measured sizes like T log T."""
    n = 1 << (block - 1).bit_length()
    sizes = dict(rates.fills)
    if n in sizes:
        return sizes[n]
    nearest = min(sizes, key=lambda size: abs(math.log2(size / n)))
    factor = n * max(math.log2(n), 1) / (nearest * math.log2(nearest))
    if n < nearest:
        factor = n / nearest
    return tuple(
        Fill(f.single * factor, f.keep * factor, f.product * factor) for f in sizes[nearest]
    )
