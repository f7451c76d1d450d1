"""What a cost model says of block sizes, in seconds per token of the whole workload."""

from __future__ import annotations

from typing import Protocol

from ..plan import Plan


class CostModel(Protocol):
    """Modelled seconds per token of all layers and batch rows of a workload."""

    def first(self, block: int) -> float:
        """The short-range convolutions, averaged over a block of ``T_0 = block``."""

    def level(self, block: int, radix: int) -> float:
        """The fills of one level; radix as in ``Plan.levels``."""

    def firing(self, block: int, radix: int) -> float:
        """Seconds, not per token, of one firing of a level, averaged over a group."""

    def making(self, block: int, radix: int) -> float:
        """What a level adds whose firings make the filter spectra that they multiply."""

    def plan(self, plan: Plan) -> float:
        """The short-range convolutions and the fills of all levels."""
        levels = (self.level(level.block, level.radix) for level in plan.levels)
        return self.first(plan.base) + sum(levels)
