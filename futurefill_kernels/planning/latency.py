"""``objective="latency"``: block sizes of a plan with slack, so that no single step is slow."""

from __future__ import annotations

from ..plan import Plan
from .cost import CostModel
from .workload import Workload

#: A fill that is due at once may take this long.
LONGEST_FILL_SECONDS = 1e-4
#: Radix of the levels with slack. A firing's work is spread over one block of the level below, so
#: a wider radix makes its share of a step larger; `python -m bench latency` times alternatives.
RADIX = 4
SMALLEST_BLOCK = 16


def slack_plan(workload: Workload, cost: CostModel, largest_block: int) -> Plan:
    """The largest block whose fill is short enough to be done at once, and slack above it.

    largest_block: of a level; larger where that leaves more than 16 blocks.
    """
    taps = workload.filter_length
    if taps == workload.length:  # one block may hold it all
        taps = max(taps, SMALLEST_BLOCK)
    sizes = [min(SMALLEST_BLOCK, 1 << taps.bit_length() - 1)]
    while (
        sizes[-1] * 2 < workload.length
        and sizes[-1] * 2 <= taps
        and cost.firing(sizes[-1] * 2, RADIX) <= LONGEST_FILL_SECONDS
    ):
        sizes.append(sizes[-1] * 2)
    largest = min(max(largest_block, workload.length // 16), taps)
    slack_from = None
    while sizes[-1] * RADIX <= largest and sizes[-1] * RADIX + sizes[-1] < workload.length:
        sizes.append(sizes[-1] * RADIX)
        slack_from = sizes[-1] if slack_from is None else slack_from
    return Plan(workload.length, tuple(sizes), workload.filter_length, slack_from)
