"""Which GPU implementation does what under ``impl="auto"``: steps, prompts, and each level's fills.

Nothing here touches a device.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..plan import Plan
from .capabilities import VARIANTS, on_gpus
from .device import DeviceInfo
from .gpu_cost import GpuCost, times_of
from .workload import Workload

#: What steps are compared on: a model of Hyena's shape.
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
            key=lambda name: cost.level_of(name, level.block, level.radix),
        )
        for level in plan.levels
    )


def of_prompts(names: Sequence[str], info: DeviceInfo) -> str:
    """The one whose prompts took the least of the time of all, on average."""
    taken = {
        name: {time[:3]: time.seconds for time in found.prompts}
        for name, found in times_of(info).kernels
        if name in names
    }
    shapes = set.intersection(*(set(times) for times in taken.values())) if taken else set()
    if not shapes:
        return names[0]
    total = {shape: sum(times[shape] for times in taken.values()) for shape in shapes}
    return min(taken, key=lambda name: sum(taken[name][s] / total[s] for s in shapes))
