"""Which GPU implementation ``impl="auto"`` tries first: counted costs, until ``tune`` measures.

Nothing here touches a device.
"""

from __future__ import annotations

from .capabilities import CAPABILITIES, on_gpus
from .device import DeviceInfo
from .gpu_cost import FFT_LAUNCHES, FFT_PASSES, fill_bytes
from .search import Stream

#: What costs are compared on: blocks 16, 32, ... of a model of Hyena's shape.
_STREAM = Stream(65536, 65536, 1024, 1, 24, 1024)
_FIRST_BLOCK = 16


def token_seconds(name: str, info: DeviceInfo) -> float:
    """A token of the stream that implementations are compared on, from counts and peak rates."""
    record, stream = CAPABILITIES[name], _STREAM
    counted = record.counted
    if counted is None:
        raise ValueError(f"no kernels of {name!r} are counted; expected one of {on_gpus()}")
    channels = stream.layers * stream.channels
    # taps and inputs of half a block, u, y and the slot read and written
    step = counted.step_traffic * 4 * channels * (_FIRST_BLOCK + 4)
    seconds = step / info.dram_bytes_per_second + stream.layers * info.launch_seconds
    block = _FIRST_BLOCK
    while block < stream.length:
        moved, launches = counted.fill_traffic * fill_bytes(stream, block, 1, False), 1
        if block > record.largest_fused:
            moved += FFT_PASSES * 8 * block * channels
            launches = FFT_LAUNCHES * stream.layers
        # a peak rate counts a multiply-add as two operations, an instruction
        issued = counted.fill_instructions * block * channels * 2 / info.fp32_flops
        firing = max(moved / info.dram_bytes_per_second, issued) + launches * info.launch_seconds
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
