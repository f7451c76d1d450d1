"""``objective="latency"``: block sizes of a plan with slack, so that no single step is slow."""

from __future__ import annotations

from .cpu_cost import CpuRates, level_ns
from .plan import Plan
from .search import Stream

#: A fill that is due at once may take this long.
LONGEST_FILL_NS = 1e5
#: Radix of the levels with slack. A firing's work is spread over one block of the level below, so
#: a wider radix makes its share of a step larger; `python -m bench latency` times alternatives.
RADIX = 4
#: Largest block, unless that leaves more than 16: one stage of its transform is one piece of work.
LARGEST_BLOCK = 16384
SMALLEST_BLOCK = 16


def latency_plan(stream: Stream, rates: CpuRates) -> Plan:
    """Plan for the shortest longest step: the largest block whose fill is short enough to be done
    at once, and slack above it.
    """
    per_step = stream.layers * stream.batch_size * stream.channels
    sizes = [SMALLEST_BLOCK]
    while sizes[-1] * 2 < stream.length:
        block = sizes[-1] * 2
        # per token and channel, averaged over the blocks of a group
        ns = level_ns(stream, rates, block, RADIX) * RADIX / (RADIX - 1) * block * per_step
        if ns > LONGEST_FILL_NS:
            break
        sizes.append(block)
    largest = max(LARGEST_BLOCK, stream.length // 16)
    slack_from = None
    while sizes[-1] * RADIX <= largest and sizes[-1] * RADIX + sizes[-1] < stream.length:
        sizes.append(sizes[-1] * RADIX)
        slack_from = sizes[-1] if slack_from is None else slack_from
    return Plan(stream.length, tuple(sizes), stream.filter_length, slack_from)
