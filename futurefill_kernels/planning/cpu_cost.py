"""What a plan costs on a CPU: measured times of short-range steps and of fills of every block size,
with their data in the second-level cache, in the last-level cache and in memory.

Rates are times per channel of one thread, and factors on them for several. The shipped ones are in
``cpu_rates.json``, one record per instruction set (``python -m bench.commands.rates`` writes it);
those of this machine are in ``this_cpu``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import native
from ..level import transform_length
from .cost import CostModel
from .device import DeviceInfo
from .workload import Workload, level_firings

#: The rates that come with the package.
SHIPPED = Path(__file__).parent / "cpu_rates.json"
#: Where a level's data are when it fires.
TIERS = ("l2", "l3", "dram")
#: What threads are measured at: the short-range step, and fills in each tier.
WORK = ("step", *TIERS)
#: Lanes of a vector, most often.
VECTOR = 8
#: Bytes per token and channel that are touched between two firings of a level.
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
    threads once. l2_bytes: second-level cache of a core. last_level_bytes: the largest cache.
    available: threads that there will be.
    """

    steps: tuple[tuple[int, float], ...]
    fills: tuple[tuple[int, tuple[Fill, ...]], ...]
    firing_ns: float
    threads: tuple[tuple[int, tuple[float, ...]], ...]
    handover_ns: float
    l2_bytes: int
    last_level_bytes: int
    available: int = 1

    @classmethod
    def from_dict(cls, rates: dict[str, Any], info: DeviceInfo) -> CpuRates:
        """Rates as ``tune`` stores them; the largest cache as measured, else as reported."""
        return cls(
            tuple((int(t), ns) for t, ns in rates["steps"]),
            tuple((int(t), tuple(Fill(*f) for f in tiers)) for t, tiers in rates["fills"]),
            float(rates["firing_ns"]),
            tuple((int(n), tuple(factors)) for n, factors in rates["threads"]),
            float(rates["handover_ns"]),
            int(rates["l2_bytes"]),
            int(rates.get("last_level_bytes", info.last_level_bytes)),
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
    return dict(json.loads(SHIPPED.read_text())[isa]["rates"])


@dataclass(frozen=True)
class CpuCost(CostModel):
    """Costs of a workload from measured rates."""

    workload: Workload
    rates: CpuRates

    def first(self, block: int) -> float:
        """The short-range convolutions of all layers, averaged over a block."""
        return 1e-9 * self.workload.all_channels * self.step_ns(block)

    def level(self, block: int, radix: int) -> float:
        """The fills of one level."""
        w = self.workload
        total = sum(
            same.times * self.fill_ns(block, radix, same.products, same.keeps)
            for same in level_firings(w, block, radix)
        )
        return 1e-9 * w.all_channels * total / w.length

    def firing(self, block: int, radix: int) -> float:
        """Seconds of one firing of all layers and rows, averaged over a group."""
        return self.level(block, radix) * radix / (radix - 1) * block

    def making(self, block: int, radix: int) -> float:
        """Half a firing for every product and filter, beyond what reading them would take (``bench
        kept``); a vector makes one filter's where it is shared.
        """
        w = self.workload
        firings = level_firings(w, block, radix)
        products = sum(same.times * same.products for same in firings)
        filters = w.layers * min(w.channels, VECTOR * w.groups) * w.makings
        return 0.5e-9 * filters * self.fill_ns(block, radix, 1, False) * products / w.length

    def step_ns(self, block: int) -> float:
        """One step's short-range convolution per channel, averaged over a block; beyond the largest
        measured block in proportion to the taps read.
        """
        w, rates = self.workload, self.rates
        known = dict(rates.steps)
        if block in known and block <= w.filter_length:
            ns = known[block]
        else:  # between two measured blocks a step costs in proportion to its taps
            (a, a_ns), *_, (b, b_ns) = rates.steps
            per_tap = (b_ns - a_ns) / ((b - a) / 2)
            ns = max(a_ns + per_tap * (w.taps_per_step(block) - (a + 1) / 2), 0.1)
        n = native.step_threads(w.batch_size, w.channels, block, rates.available)
        return ns * rates.factor(0, n) + (rates.handover_ns / w.layer_channels if n > 1 else 0.0)

    def fill_ns(self, block: int, radix: int, products: float, keeps: bool) -> float:
        """One firing of one channel of one row, its share of what a firing costs whatever its size
        included.

        Between two uses of a level's newest data everything advances ``block`` tokens, so they come
        from the cache that holds all that is touched meanwhile. The oldest filter spectrum and the
        slot of the spectrum that is kept were used a group of ``radix`` blocks ago.
        """
        w, rates, tiers = self.workload, self.rates, _tiers(self.rates, block)
        n = native.fill_threads(w.layers, w.batch_size, w.channels, block, rates.available)
        each = TOUCHED * w.itemsize // 4 - (w.itemsize - w.ring_itemsize)
        touched = each * w.all_channels * block
        factors = [rates.factor(1 + tier, n) for tier in range(len(TIERS))]

        def cost(touched: float, name: str) -> tuple[float, float]:
            """A part's time, and what of it is waiting for caches beyond the second level."""
            l2, l3, dram = (getattr(tier, name) * f for tier, f in zip(tiers, factors, strict=True))
            # inside a factor of two around a cache's size some of the data are there
            far = _beyond(touched / n, rates.l2_bytes) * (l3 - l2)
            far += _beyond(touched, rates.last_level_bytes) * (dram - l3)
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
        shared = 1 - 1 / min(w.rows_per_filter, 8)
        once = rates.firing_ns + (rates.handover_ns if n > 1 else 0.0)
        return (single - 0.5 * shared * far) * w.itemsize / 4 + once / w.all_channels


def _beyond(touched: float, cache_bytes: int) -> float:
    """Share of touched bytes that does not come from a cache: 0 at half its size, 1 at twice."""
    return min(1.0, max(0.0, (math.log2(max(touched, 1) / cache_bytes) + 1) / 2))


def _tiers(rates: CpuRates, block: int) -> tuple[Fill, ...]:
    """Measured times of a block's transform; beyond the measured sizes like T log T."""
    n = transform_length(block)
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
