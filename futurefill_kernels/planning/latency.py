"""``objective="latency"``: block sizes of a plan with slack, so that no single step is slow."""

from __future__ import annotations

from collections.abc import Callable

from ..plan import Plan
from . import gpu_cost
from .cpu_cost import CpuRates, level_ns
from .device import DeviceInfo
from .search import Stream

#: A fill that is due at once may take this long.
LONGEST_FILL_NS = 1e5
#: Radix of the levels with slack. A firing's work is spread over one block of the level below, so
#: a wider radix makes its share of a step larger; `python -m bench latency` times alternatives.
RADIX = 4
#: Largest block on a CPU, where one stage of its transform is one piece of work; on a GPU it is the
#: largest that one launch does. Larger where that leaves more than 16.
LARGEST_CPU_BLOCK = 16384
SMALLEST_BLOCK = 16


def cpu_latency_plan(stream: Stream, rates: CpuRates) -> Plan:
    """Plan for the shortest longest step on a CPU."""
    per_step = stream.layers * stream.batch_size * stream.channels

    def fill_ns(block: int) -> float:
        # per token and channel, averaged over the blocks of a group
        return level_ns(stream, rates, block, RADIX) * RADIX / (RADIX - 1) * block * per_step

    return _latency_plan(stream, fill_ns, LARGEST_CPU_BLOCK)


def gpu_latency_plan(stream: Stream, info: DeviceInfo) -> Plan:
    """Plan for the shortest longest step on a GPU.

    Raises ValueError with the bytes needed when it does not fit the device's memory.
    """

    def fill_ns(block: int) -> float:
        return gpu_cost.fill_seconds(stream, info, block, RADIX / 2, True) * 1e9

    plan = _latency_plan(stream, fill_ns, stream.largest_fused)
    needed, limit = gpu_cost.needed_nbytes(stream, plan), gpu_cost.usable_bytes(info)
    if needed > limit:
        raise ValueError(
            f"a plan without slow steps needs {needed} bytes, of {info.name}'s memory {limit} may "
            "be used; objective='throughput' may need fewer"
        )
    return plan


def _latency_plan(stream: Stream, fill_ns: Callable[[int], float], largest: int) -> Plan:
    """The largest block whose fill is short enough to be done at once, and slack above it."""
    sizes = [SMALLEST_BLOCK]
    while sizes[-1] * 2 < stream.length and fill_ns(sizes[-1] * 2) <= LONGEST_FILL_NS:
        sizes.append(sizes[-1] * 2)
    largest = max(largest, stream.length // 16)
    slack_from = None
    while sizes[-1] * RADIX <= largest and sizes[-1] * RADIX + sizes[-1] < stream.length:
        sizes.append(sizes[-1] * RADIX)
        slack_from = sizes[-1] if slack_from is None else slack_from
    return Plan(stream.length, tuple(sizes), stream.filter_length, slack_from)
