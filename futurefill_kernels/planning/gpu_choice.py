"""Which GPU implementation does what under ``impl="auto"``: steps, prompts, and each level's fills.

Nothing here touches a device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ..plan import Plan
from .capabilities import FFT, VARIANTS, on_gpus
from .device import DeviceInfo
from .gpu_cost import GpuCost, times_of
from .workload import Workload

#: What steps are compared on where no stream is given: a model of Hyena's shape.
_WORKLOAD = Workload(65536, 65536, 1024, 1, 24, 1024)
_FIRST_BLOCK = 32


def order(info: DeviceInfo) -> list[str]:
    """Names, those with the fastest steps first."""
    timed = [name for name, _ in times_of(info).kernels]
    cost = GpuCost(_WORKLOAD, info)
    names = sorted(
        (name for name in on_gpus() if name in timed),
        key=lambda name: cost.steps(name, _FIRST_BLOCK),
    )
    return names + [name for name in on_gpus() if name not in timed]


def of_levels(plan: Plan, workload: Workload, info: DeviceInfo) -> tuple[str, ...]:
    """Per level of a plan the one of ``workload.impls`` whose fills are fastest, torch.fft among
    them, or a second form of its fills where that was timed at the level's block; these have no
    ring of 16 bits.
    """
    cost, timed = GpuCost(workload, info), dict(times_of(info).kernels)
    forms = {
        form: {time.size for time in timed[form].fills}
        for form, name in VARIANTS.items()
        if name in cost.names and form in timed and not workload.narrow
    }
    return tuple(
        min(
            [*cost.fills, *(form for form, blocks in forms.items() if level.block in blocks)],
            # torch.fft itself where the others would have it do the level
            key=lambda name: (cost.level_of(name, level.block, level.radix), name != FFT.name),
        )
        for level in plan.levels
    )


def of_steps(plan: Plan, workload: Workload, info: DeviceInfo) -> str:
    """The one of ``workload.impls`` with the fastest steps of a stream."""
    cost = GpuCost(workload, info)
    return min(cost.names, key=lambda name: cost.steps(name, plan.base))


def of_prompts(names: Sequence[str], info: DeviceInfo) -> tuple[tuple[int, str], ...]:
    """From how many positions on which one's prompts took the least time: from 0 on the first, and
    half-way, by ratio, between two lengths whose fastest ones differ.
    """
    taken = {
        name: {time[:3]: time.seconds for time in found.prompts}
        for name, found in times_of(info).kernels
        if name in names
    }
    shapes = set.intersection(*(set(times) for times in taken.values())) if taken else set()
    if not shapes:
        return ((0, names[0]),)
    total = {shape: sum(times[shape] for times in taken.values()) for shape in shapes}
    fastest = {
        size: min(taken, key=lambda name: sum(taken[name][s] / total[s] for s in same))
        for size in sorted({size for size, *_ in shapes})
        for same in [[s for s in shapes if s[0] == size]]
    }
    found = [(0, next(iter(fastest.values())))]
    for (short, one), (long, other) in itertools.pairwise(fastest.items()):
        if one != other:
            found.append((round(math.sqrt(short * long)), other))
    return tuple(found)
