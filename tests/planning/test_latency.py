"""Plans with slack under a cost that is known."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from futurefill_kernels.planning.cost import CostModel
from futurefill_kernels.planning.latency import LONGEST_FILL_SECONDS, slack_plan
from futurefill_kernels.planning.workload import Workload


@dataclass(frozen=True)
class Linear(CostModel):
    """A firing takes its block's share of the longest that one may take at once."""

    longest_block: int

    def first(self, block):
        return 0.0

    def level(self, block, radix):
        return 0.0

    def firing(self, block, radix):
        return LONGEST_FILL_SECONDS * block / self.longest_block


@pytest.mark.parametrize(
    ("length", "longest", "largest", "sizes", "slack_from"),
    [
        (65536, 128, 8192, (16, 32, 64, 128, 512, 2048, 8192), 512),
        (65536, 128, 4096, (16, 32, 64, 128, 512, 2048), 512),
        # a long workload may have larger blocks, sixteen of them
        (1 << 20, 64, 2048, (16, 32, 64, 256, 1024, 4096, 16384, 65536), 256),
        # the smallest block is taken whatever it costs
        (65536, 1, 256, (16, 64, 256, 1024, 4096), 64),
        (100, 1 << 20, 8192, (16, 32, 64), None),
        (10, 1 << 20, 8192, (16,), None),
    ],
)
def test_slack_begins_above_what_is_done_at_once(length, longest, largest, sizes, slack_from):
    plan = slack_plan(Workload(length, length, 1, 1, 1, 1), Linear(longest), largest)
    assert (plan.block_sizes, plan.slack_from) == (sizes, slack_from)
