"""Which GPU implementation ``impl="auto"`` tries first: counted costs, until ``tune`` measures.

Nothing here touches a device.
"""

from __future__ import annotations

from dataclasses import replace

from .capabilities import CAPABILITIES, on_gpus
from .device import DeviceInfo
from .gpu_cost import apply_bytes, fill_bytes, fill_launches, history_bytes, workspace_bytes
from .workload import Workload

#: What costs are compared on: blocks 16, 32, ... of a model of Hyena's shape.
_WORKLOAD = Workload(65536, 65536, 1024, 1, 24, 1024)
_FIRST_BLOCK = 16


def token_seconds(name: str, info: DeviceInfo) -> float:
    """A token of what implementations are compared on, from counts and peak rates."""
    record = CAPABILITIES[name]
    counted = record.counted
    if counted is None:
        raise ValueError(f"no kernels of {name!r} are counted; expected one of {on_gpus()}")
    workload = replace(_WORKLOAD, largest_fused=record.largest_fused)
    step = counted.history_traffic * history_bytes(workload, _FIRST_BLOCK) + apply_bytes(workload)
    seconds = step / info.dram_bytes_per_second + (1 + workload.layers) * info.launch_seconds
    block = _FIRST_BLOCK
    while block < workload.length:
        moved = counted.fill_traffic * fill_bytes(workload, block, 1, False)
        moved += workspace_bytes(workload, block)
        # a peak rate counts a multiply-add as two operations, an instruction
        issued = counted.fill_instructions * block * workload.all_channels * 2 / info.fp32_flops
        firing = max(moved / info.dram_bytes_per_second, issued)
        firing += fill_launches(workload, block) * info.launch_seconds
        seconds += firing / (2 * block)
        block *= 2
    return seconds


def order(info: DeviceInfo) -> list[str]:
    """Names, fastest first: as measured on the device, those not measured by their counts."""
    measured = dict(info.implementation_seconds)
    counted = sorted(on_gpus(), key=lambda name: token_seconds(name, info))
    if not all(name in measured for name in on_gpus()):
        return counted
    return sorted(on_gpus(), key=lambda name: measured[name])
