"""Blocks in which a prompt that comes in many calls is convolved: pure numbers.

On a CPU the arithmetic counts: small blocks, whose transforms are kept for a group of them. On a
GPU a block costs what the host takes to launch it and what its points take, and a call is often a
part of one: in larger ones it does more points than it has, in smaller ones fills come more often.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch

from .device import DeviceInfo
from .gpu_cost import times_of

#: The smallest block of any prompt.
SMALLEST = 64
#: Launches of torch for what a block adds to the next: transform, product, inverse, addition.
_FILL_LAUNCHES = 4


class PromptLevels(NamedTuple):
    """kept: blocks, smallest first, of which transforms are kept until the end of a group of
    ``radix``, which is the next block; above them, and where there are none, each block is as long
    as all before it that a level adds. fill_points: positions and channels whose transforms take as
    long as the launches of a fill; 0 with kept blocks.
    """

    kept: tuple[int, ...]
    radix: int
    fill_points: float = 0.0

    @property
    def pairs_from(self) -> int:
        """The smallest block above the kept ones."""
        return self.kept[-1] * self.radix if self.kept else SMALLEST

    def first_block(self, position: int, call: int, channels: int) -> int:
        """The block in which parts of a block are done from ``position`` on, without kept ones.

        call: positions of the call. channels: of all rows. Of T positions a fill is due at the end
        of each block, and each call transforms a block: the sum of both is least at this T. At most
        a quarter of the prompt, so that its filters' spectra take less than its inputs.
        """
        if position == 0:
            return SMALLEST
        best = math.sqrt(self.fill_points * call / channels)
        block = 1 << max(round(math.log2(max(best, 1.0))), 0)
        quarter = 1 << (position.bit_length() - 3) if position >= 4 else 1
        return max(min(block, quarter, position & -position), SMALLEST)


ON_A_CPU = PromptLevels((64, 512), 8)


@lru_cache(maxsize=16)
def prompt_levels(device: torch.device) -> PromptLevels:
    """Of a device, on a GPU by the rates of its kind."""
    return gpu_levels(DeviceInfo.of(device)) if device.type == "cuda" else ON_A_CPU


def gpu_levels(info: DeviceInfo) -> PromptLevels:
    """The same of a GPU that need not be there."""
    times = times_of(info)
    launch = min(kernels.launch_seconds for _, kernels in times.kernels)
    return PromptLevels((), 1, _FILL_LAUNCHES * launch / times.fft_seconds_per_point)
