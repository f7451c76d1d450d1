"""Which GPU implementation ``impl="auto"`` tries first: counted costs, until ``tune`` measures.

Nothing here touches a device.
"""

from __future__ import annotations

from dataclasses import dataclass

from .device import DeviceInfo
from .gpu_cost import FFT_LAUNCHES, FFT_PASSES, fill_bytes
from .search import Stream


@dataclass(frozen=True)
class Counted:
    """Counts of an implementation's compiled kernels (docs/kernels.md), B=1 and D=1024.

    step_traffic, fill_traffic: 32-byte sectors over compulsory bytes, the most of the table's rows
    (of a step: in the middle of a block). fill_instructions: per channel and position of the block,
    the most of the rows up to 2048. largest_fused: largest block of one launch.
    """

    step_traffic: float
    fill_traffic: float
    fill_instructions: float
    largest_fused: int


COUNTED = {
    "cuda": Counted(1.073, 1.019, 135, 8192),
    "triton": Counted(1.002, 1.201, 174, 2048),
}
#: What costs are compared on: blocks 16, 32, ... of a model of Hyena's shape.
_STREAM = Stream(65536, 65536, 1024, 1, 24, 1024)
_FIRST_BLOCK = 16


def token_seconds(name: str, info: DeviceInfo) -> float:
    """A token of the stream that implementations are compared on, from counts and peak rates."""
    counted, stream = COUNTED[name], _STREAM
    channels = stream.layers * stream.channels
    # taps and inputs of half a block, u, y and the slot read and written
    step = counted.step_traffic * 4 * channels * (_FIRST_BLOCK + 4)
    seconds = step / info.dram_bytes_per_second + stream.layers * info.launch_seconds
    block = _FIRST_BLOCK
    while block < stream.length:
        moved, launches = counted.fill_traffic * fill_bytes(stream, block, 1, False), 1
        if block > counted.largest_fused:
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
    counted = sorted(COUNTED, key=lambda name: token_seconds(name, info))
    if not all(name in measured for name in COUNTED):
        return counted
    return sorted(COUNTED, key=lambda name: measured[name])
