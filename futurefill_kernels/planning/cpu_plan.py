"""Plans for CPUs."""

from __future__ import annotations

from functools import lru_cache

from ..plan import Plan
from .cpu_cost import CpuCost, CpuRates
from .latency import slack_plan
from .search import cheapest_block_sizes
from .workload import Workload

#: Largest block of a plan with slack: one stage of its transform is one piece of work.
LARGEST_SLACK_BLOCK = 16384


@lru_cache(maxsize=256)
def cheapest_plan(workload: Workload, rates: CpuRates) -> Plan:
    """The plan with the least modelled time per token; first blocks are those measured."""
    cost = CpuCost(workload, rates)
    starts = [block for block, _ in rates.steps]
    sizes = cheapest_block_sizes(
        workload.length, starts, cost.first, cost.level, taps=workload.filter_length
    )
    return Plan(workload.length, sizes, workload.filter_length)


def latency_plan(workload: Workload, rates: CpuRates) -> Plan:
    """Plan for the shortest longest step."""
    return slack_plan(workload, CpuCost(workload, rates), LARGEST_SLACK_BLOCK)
