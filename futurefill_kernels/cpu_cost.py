"""What a plan costs on a CPU: operations at measured rates, and bytes at the speed of the cache
they live in. Times are per token and channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .device import DeviceInfo
from .plan import Plan
from .search import Stream, cheapest_block_sizes


@dataclass(frozen=True)
class CpuRates:
    """Measured rates of one thread, for float32.

    tap_ns: one short-range tap of one channel. step_ns: one output without its taps.
    point_ns: one complex point through one radix-2 stage, in the L2 cache.
    product_ns: one complex entry of a spectrum product. outputs_ns: reading an input and
    adding to an output. far: factor on transforms whose buffers leave the L2 cache.
    dram_ns, cache_ns: one byte from memory, from the last-level cache.
    l2_bytes, cache_bytes: cache sizes.
    """

    tap_ns: float
    step_ns: float
    point_ns: float
    product_ns: float
    outputs_ns: float
    far: float
    dram_ns: float
    cache_ns: float
    l2_bytes: int
    cache_bytes: int
    lanes: int = 8

    @classmethod
    def of(cls, info: DeviceInfo) -> CpuRates:
        """Shipped defaults, scaled by the record's bandwidth and peak rate.

        The factors were set by hand so that small first blocks and radix 2 to 4 win, as they do on
        a Zen 2 core with AVX2; they are not single measured rates.
        `python -m bench stream --block-sizes ...` times any alternative.
        """
        flop_ns = 1e9 * info.sm_count / info.fp32_flops
        return cls(
            tap_ns=12 * flop_ns,
            step_ns=0.4,
            point_ns=10 * flop_ns,
            product_ns=36 * flop_ns,
            outputs_ns=0.3,
            far=1.5,
            dram_ns=1.5e9 * info.sm_count / info.dram_bytes_per_second,
            cache_ns=0.5e9 * info.sm_count / info.dram_bytes_per_second,
            l2_bytes=512 << 10,
            cache_bytes=info.l2_bytes,
        )


def level_ns(stream: Stream, rates: CpuRates, block: int, radix: int) -> float:
    """Cost of one level per token and channel.

    Between two uses of a level's spectra the whole stream advances ``block`` tokens or more, so a
    level's bytes come from memory unless all that is touched meanwhile fits the cache.
    """
    n = 1 << (block - 1).bit_length()
    spectra = min(radix - 1, -(-stream.filter_length // block))
    products = sum(min(i, spectra) for i in range(1, radix)) / (radix - 1)
    far = rates.far if n * 2 * rates.lanes * stream.itemsize > rates.l2_bytes else 1.0
    scale = stream.itemsize / 4
    ns = 2 * n * (n.bit_length() - 1) * rates.point_ns * far
    ns += products * n * rates.product_ns + block * rates.outputs_ns
    # inputs once, pending outputs read and written, spectra once for all rows that share them
    entry = stream.itemsize
    moved = block * 3 * entry + n * 2 * entry * (
        products / stream.rows_per_filter + max(products - 1, 0) + (1 if spectra > 1 else 0)
    )
    touched = stream.layers * stream.channels * stream.batch_size * block * 5 * entry
    ns += moved * (rates.dram_ns if touched > rates.cache_bytes else rates.cache_ns)
    return scale * ns * (radix - 1) / (radix * block)


def short_range_ns(rates: CpuRates, block: int, taps: int) -> float:
    """Cost of one step's short-range convolution per channel, averaged over a block."""
    ramp = min(block, taps)
    read = (ramp * (ramp + 1) / 2 + (block - ramp) * taps) / block
    return rates.step_ns + read * rates.tap_ns


@lru_cache(maxsize=256)
def cheapest_plan(stream: Stream, rates: CpuRates) -> Plan:
    """The plan with the least modelled time per token."""
    sizes = cheapest_block_sizes(
        stream.length,
        [1 << k for k in range(2, 9)],
        lambda block: short_range_ns(rates, block, stream.filter_length),
        lambda block, radix: level_ns(stream, rates, block, radix),
    )
    return Plan(stream.length, sizes, stream.filter_length)
