"""``memory=``: which levels make their filter spectra when they fire, and what levels may keep."""

from __future__ import annotations

import dataclasses

from ..plan import Plan
from .cost import CostModel
from .workload import Workload

#: "speed": spectra are made where that costs next to nothing. "small": the bytes below hold.
MEMORY = ("speed", "small")
#: Share of a token's modelled time that making spectra may take with "speed".
SPEED_SHARE = 0.02
#: Bytes per token and channel with "small", where filters are as long as the stream, channels a
#: multiple of 32, and of SMALL_FROM tokens on: of a row by the bytes of a slot, and of a float32
#: filter with its taps.
ROW_BYTES, FILTER_BYTES = {2: 2.2, 4: 4.1, 8: 8.2}, 5.1
SMALL_FROM = 1024
#: Smaller blocks fire too often for what they hold.
SMALLEST_MADE = 64
#: Of a row, values that its undo and the gap behind its ring take.
_ROW_GAPS = 18


def check_memory_choice(memory: str) -> str:
    """ValueError unless it is one of `MEMORY`."""
    if memory not in MEMORY:
        raise ValueError(f"expected memory to be one of {MEMORY}, got {memory!r}")
    return memory


def keeps_little(plan: Plan, workload: Workload, memory: str) -> bool:
    """Whether kept input spectra take no more than the ring, or with "small" what a row may."""
    ring, itemsize = workload.ring_itemsize, workload.itemsize
    limit = ring * plan.slots
    if memory == "small":
        other = itemsize * (_ROW_GAPS + (plan.open_slots if workload.narrow else 0))
        limit = max(int((ROW_BYTES[ring] - ring) * plan.slots) - other, 0)
    return 2 * itemsize * plan.kept_rows <= limit


def longest_first_block(workload: Workload, memory: str) -> int:
    """Largest ``T_0``, whose taps are there twice, and with a ring of 16 bits its slots."""
    if workload.length < SMALL_FROM:
        return workload.length
    narrow, wide = {"small": (40, 8), "speed": (4, 1)}[memory]
    return workload.length // (narrow if workload.narrow else wide)


def made_small(plan: Plan) -> Plan:
    """The plan whose largest levels make their spectra, as many as "small" needs.

    ValueError for a plan with slack.
    """
    if plan.slack_from is not None:
        raise ValueError(
            "expected memory='speed' with slack, whose levels hold their filter spectra, "
            f"got memory='small' for slack_from={plan.slack_from}"
        )
    for level in reversed(plan.levels):
        if _filter_bytes(plan) <= FILTER_BYTES * plan.slots or level.block < SMALLEST_MADE:
            break
        if level.made:
            continue
        plan = dataclasses.replace(plan, made_from=level.block)
    return plan


def made_where_cheap(plan: Plan, cost: CostModel) -> Plan:
    """The plan whose largest levels make their spectra as long as all of that is a small share."""
    if plan.slack_from is not None:
        return plan
    left = SPEED_SHARE * cost.plan(plan)
    for level in reversed(plan.levels):
        left -= cost.making(level.block, level.radix)
        if left < 0 or level.block < SMALLEST_MADE:
            break
        plan = dataclasses.replace(plan, made_from=level.block)
    return plan


def _filter_bytes(plan: Plan) -> int:
    return 4 * (plan.slots + plan.base) + 8 * plan.spectra_rows
