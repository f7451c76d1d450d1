"""Plans for CPUs."""

from __future__ import annotations

import math
from functools import lru_cache

from ..plan import Plan
from .cpu_cost import CpuCost, CpuRates
from .latency import slack_plan
from .memory import kept_nbytes
from .search import cheapest_block_sizes
from .small import keeps_little, longest_first_block, made_small, made_where_cheap
from .workload import Workload

#: Largest block of a plan with slack: one stage of its transform is one piece of work.
LARGEST_SLACK_BLOCK = 16384


#: Prices of a byte of kept input spectra, tried in turn until a plan keeps little enough: times the
#: seconds per token over such bytes of the plan that keeps as many as it likes.
PRICES = (1 / 16, 1 / 4, 1.0, 4.0, 16.0, 1e6)


@lru_cache(maxsize=256)
def cheapest_plan(workload: Workload, rates: CpuRates, memory: str = "speed") -> Plan:
    """The plan with the least modelled time per token; first blocks are those measured."""
    cost = CpuCost(workload, rates)
    starts = [block for block, _ in rates.steps]
    longest = longest_first_block(workload, memory)

    def first_cost(block: int) -> float:
        return cost.first(block) if block <= longest else math.inf

    def search(price: float) -> Plan:
        def level_cost(block: int, radix: int) -> float:
            return cost.level(block, radix) + price * kept_nbytes(workload, block, radix)

        sizes = cheapest_block_sizes(
            workload.length, starts, first_cost, level_cost, taps=workload.filter_length
        )
        return Plan(workload.length, sizes, workload.filter_length)

    plan = search(0.0)
    kept = 2 * workload.itemsize * workload.all_channels * plan.kept_rows
    unit = cost.plan(plan) / max(kept, 1)
    for price in PRICES:
        if keeps_little(plan, workload, memory):
            break
        plan = search(price * unit)
    return made_small(plan) if memory == "small" else made_where_cheap(plan, cost)


def latency_plan(workload: Workload, rates: CpuRates) -> Plan:
    """Plan for the shortest longest step."""
    return slack_plan(workload, CpuCost(workload, rates), LARGEST_SLACK_BLOCK)
