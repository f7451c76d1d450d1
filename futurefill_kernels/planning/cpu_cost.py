"""What a plan costs on a CPU: measured times of short-range steps and of fills of every block size,
with their data in the second-level cache, in the last-level cache and in memory.

Times are per token and channel of one thread, and factors on them for several. The shipped ones are
in ``cpu_rates.json``, one record per instruction set (``python -m bench.commands.rates`` writes
it); ``python -m futurefill_kernels tune`` measures those of this machine.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .. import native
from ..plan import Plan
from .device import DeviceInfo, processor
from .rates import load as load_rates
from .search import Stream, cheapest_block_sizes, level_firings

#: Where a level's data are when it fires.
TIERS = ("l2", "l3", "dram")
#: What threads are measured at: the short-range step, and fills in each tier.
WORK = ("step", *TIERS)
#: Bytes per token and channel that a stream touches between two firings of a level.
TOUCHED = 20


@dataclass(frozen=True)
class Fill:
    """One firing of one channel, in ns: with one product, what storing the newest input spectrum
    adds, and what each further product adds.
    """

    single: float
    keep: float
    product: float


@dataclass(frozen=True)
class CpuRates:
    """Measured times for float32.

    steps: (T_0, ns) of a step without fills, per channel. fills: (block, one Fill per tier). Both
    of one thread. firing_ns: one firing whatever its size. threads: (n, factors), by what a time of
    one thread is multiplied with n, one factor for each of WORK. handover_ns: giving work to other
    threads once. l2_bytes, cache_bytes: second-level cache of a core,
    last-level cache. available: threads that the stream will have.
    """

    steps: tuple[tuple[int, float], ...]
    fills: tuple[tuple[int, tuple[Fill, ...]], ...]
    firing_ns: float
    threads: tuple[tuple[int, tuple[float, ...]], ...]
    handover_ns: float
    l2_bytes: int
    cache_bytes: int
    available: int = 1

    @classmethod
    def of(cls, info: DeviceInfo) -> CpuRates:
        """Rates stored for this processor, else the shipped ones of its instruction set."""
        isa, lanes = "avx2", 8
        if native.cpu_unavailable_reason() is None:
            isa, lanes = native.cpu_isa(), native.cpu_lanes(torch.float32)
        stored = load_rates("cpu", processor(), lanes)
        return cls.from_dict(shipped_rates(isa) if stored is None else stored, info)

    @classmethod
    def from_dict(cls, rates: dict[str, Any], info: DeviceInfo) -> CpuRates:
        """Rates as ``tune`` stores them."""
        return cls(
            tuple((int(t), ns) for t, ns in rates["steps"]),
            tuple((int(t), tuple(Fill(*f) for f in tiers)) for t, tiers in rates["fills"]),
            float(rates["firing_ns"]),
            tuple((int(n), tuple(factors)) for n, factors in rates["threads"]),
            float(rates["handover_ns"]),
            int(rates["l2_bytes"]),
            info.l2_bytes,
            info.sm_count,
        )

    def factor(self, work: int, n: int) -> float:
        """Time with n threads over that with one, for an entry of WORK; beyond the measured counts
        a doubling gains what the last one did.
        """
        if n < 2 or not self.threads:
            return 1.0
        known = [(math.log2(m), math.log2(f[work])) for m, f in self.threads]
        (a, at_a), (b, at_b) = (0.0, 0.0), known[0]
        for after in known[1:]:
            if math.log2(n) > b:
                (a, at_a), (b, at_b) = (b, at_b), after
        return float(2 ** (at_a + (at_b - at_a) * (math.log2(n) - a) / (b - a)))


@lru_cache(maxsize=4)
def shipped_rates(isa: str) -> dict[str, Any]:
    """The rates that come with the package for ``avx512``, ``avx2`` or ``portable``."""
    records = json.loads((Path(__file__).parent / "cpu_rates.json").read_text())
    return dict(records[isa]["rates"])


def short_range_ns(stream: Stream, rates: CpuRates, block: int) -> float:
    """One step's short-range convolution per channel, averaged over a block; beyond the largest
    measured block in proportion to the taps read.
    """
    known = dict(rates.steps)
    read = min(block, stream.filter_length)
    if block in known and read == block:
        ns = known[block]
    else:  # between two measured blocks a step costs in proportion to its taps
        (a, a_ns), *_, (b, b_ns) = rates.steps
        per_tap = (b_ns - a_ns) / ((b - a) / 2)
        average = (read * (read + 1) / 2 + (block - read) * read) / block
        ns = max(a_ns + per_tap * (average - (a + 1) / 2), 0.1)
    rows = stream.batch_size * stream.channels
    n = native.step_threads(stream.batch_size, stream.channels, block, rates.available)
    return ns * rates.factor(0, n) + (rates.handover_ns / rows if n > 1 else 0.0)


def fill_ns(
    stream: Stream, rates: CpuRates, block: int, radix: int, products: float, keeps: bool
) -> float:
    """One firing of one channel of one row, its share of what a firing costs whatever its size
    included.

    Between two uses of a level's newest data the whole stream advances ``block`` tokens, so they
    come from the cache that holds all that is touched meanwhile. The oldest filter spectrum and the
    slot of the spectrum that is kept were used a group of ``radix`` blocks ago.
    """
    tiers = _tiers(rates, block)
    whole = stream.layers * stream.channels * stream.batch_size
    n = native.fill_threads(
        stream.layers, stream.batch_size, stream.channels, block, rates.available
    )
    touched = TOUCHED * whole * block * (stream.itemsize // 4)
    factors = [rates.factor(1 + tier, n) for tier in range(len(TIERS))]

    def cost(touched: float, name: str) -> tuple[float, float]:
        """A part's time, and what of it is waiting for caches beyond the second level."""
        l2, l3, dram = (getattr(tier, name) * f for tier, f in zip(tiers, factors, strict=True))
        # inside a factor of two around a cache's size some of the data are there
        far = _beyond(touched / n, rates.l2_bytes) * (l3 - l2)
        far += _beyond(touched, rates.cache_bytes) * (dram - l3)
        return l2 + far, max(far, 0.0)

    single, far = cost(touched, "single")
    if products > 1:
        near_ns, near_far = cost(touched, "product")
        old_ns, old_far = cost(touched * radix, "product")
        # of what the further products read, one filter spectrum is old
        old = 1 / (2 * (products - 1)) if products > 1.5 else 1.0
        single += (products - 1) * (near_ns + old * (old_ns - near_ns))
        far += (products - 1) * (near_far + old * (old_far - near_far))
    if keeps:
        kept, kept_far = cost(touched * radix, "keep")
        single, far = single + kept, far + kept_far
    # half of the bytes are spectra, read once for all rows that share them
    shared = 1 - 1 / min(stream.rows_per_filter, 8)
    once = rates.firing_ns + (rates.handover_ns if n > 1 else 0.0)
    return (single - 0.5 * shared * far) * stream.itemsize / 4 + once / whole


def level_ns(stream: Stream, rates: CpuRates, block: int, radix: int) -> float:
    """Cost of one level per token and channel."""
    spectra = min(radix - 1, -(-stream.filter_length // block))
    total = 0.0
    for products, firings in level_firings(stream, block, radix):
        keeps = spectra > 1 and (products < spectra or spectra < radix - 1)
        total += firings * fill_ns(stream, rates, block, radix, products, keeps)
    return total / stream.length


def plan_ns(stream: Stream, rates: CpuRates, plan: Plan) -> float:
    """Modelled time per token and channel."""
    return short_range_ns(stream, rates, plan.base) + sum(
        level_ns(stream, rates, level.block, level.radix) for level in plan.levels
    )


@lru_cache(maxsize=256)
def cheapest_plan(stream: Stream, rates: CpuRates) -> Plan:
    """The plan with the least modelled time per token."""
    sizes = cheapest_block_sizes(
        stream.length,
        [t for t, _ in rates.steps],
        lambda block: short_range_ns(stream, rates, block),
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
