"""What a plan costs on a GPU: lines through measured times (gpu_times.py). Nothing here touches a
device.

A token is one history of all layers and one launch per layer, which a graph replays: a latency per
launch, and what its bytes take. A fill is one launch of the host's for all layers and rows: a
latency, its bytes at the measured bandwidth, and what every point of the transforms takes. Each
level is done by the implementation that is fastest at its block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from ..level import transform_length
from ..plan import Plan
from . import capabilities
from .cost import CostModel
from .device import DeviceInfo
from .gpu_times import GpuTimes, KernelTimes, Line, Point, Time, between, fit, shipped
from .workload import Workload, level_firings

#: What the host launches for a fill of some channels through torch.fft with contiguous time, and
#: bytes of a point that it moves beside the three calls: inputs gathered, turned into zeros, and
#: outputs added (fft_block.py).
FFT_FILL_LAUNCHES, FFT_FILL_BYTES = 12, 36
#: Of spectra that one part of a fill may have beside the state.
WORKSPACE_BYTES = 256 << 20
#: What the host launches for a product whose spectrum is made, of one part of the channels, beside
#: the fill of one block.
MADE_LAUNCHES = 12
#: Bytes per point that it moves beside that fill: of a filter, taps packed, twisted, transformed
#: and put in order, twice where CUDA's is another; of a row's channel, a block, zeros and outputs.
MADE_FILTER_BYTES, MADE_ROW_BYTES = 104, 32
#: Whose times devices without their own are scaled from.
BASE = "h200"
#: Fills through torch.fft whose time is contiguous.
FFT = capabilities.FFT.name


def times_of(info: DeviceInfo) -> GpuTimes:
    """A device's own times, else those of the H200 as far slower as its published rates are."""
    if info.times is not None:
        return info.times
    base = DeviceInfo.named(BASE)
    return shipped()[BASE].scaled(
        info.dram_bytes_per_second / base.dram_bytes_per_second, info.fp32_flops / base.fp32_flops
    )


def fused(name: str, block: int) -> bool:
    """Whether an implementation's fill is one launch and one pass over memory."""
    # the largest is a power of two: blocks that are none are compared like their transforms
    return block <= capabilities.of(name).largest_fused


def own_kernels(workload: Workload, name: str, block: int) -> bool:
    """Whether an implementation has kernels for a fill; torch.fft does it where not."""
    lanes = -(-workload.channels // 32) * 32
    return capabilities.of(name).has_kernels(transform_length(block), lanes)


def history_bytes(workload: Workload, block: int) -> float:
    """Bytes that a token's history must move, averaged over a block: taps and older inputs, pending
    outputs read, they and the sums written.
    """
    w, older = workload, workload.taps_per_step(block) - 1
    return float(w.itemsize * w.layers) * (w.groups * older + w.layer_channels * (older + 3))


def apply_bytes(workload: Workload) -> float:
    """Bytes that a token's steps must move then: u, y, the sum and the slot, and a tap. Where the
    slot is an open block's, it also goes to the ring and came from there.
    """
    w = workload
    turned = 2 * (w.itemsize + w.ring_itemsize) * w.all_channels if w.narrow else 0
    return float(w.itemsize * w.layers * (4 * w.layer_channels + w.groups) + turned)


def fill_launches(workload: Workload, name: str, block: int) -> int:
    """Launches of one firing of all layers and rows, or calls of torch."""
    if not own_kernels(workload, name, block):
        return FFT_FILL_LAUNCHES * _parts(block, workload.all_channels)
    return 1 if fused(name, block) else capabilities.of(name).passes * workload.layers


def fill_bytes(workload: Workload, block: int, products: float, keeps: bool) -> float:
    """Bytes that one firing must move: inputs read, pending outputs read and written, kept input
    spectra written once and read later, filter spectra read once for all rows.

    products: spectrum products of the firing. keeps: whether the newest input spectrum is stored.
    """
    n = transform_length(block)
    values = n * (products - 1 + keeps)
    per_channel = 3 * workload.ring_itemsize * block + 2 * workload.itemsize * values
    spectra = workload.groups * 2 * workload.spectra_itemsize * n * products
    return float(workload.layers * (workload.layer_channels * per_channel + spectra))


def token_bytes(workload: Workload, plan: Plan) -> float:
    """Bytes that fills must move per token, layer and channel of one row, for tables."""
    total = sum(
        same.times * fill_bytes(workload, level.block, same.products, same.keeps)
        for level in plan.levels
        for same in level_firings(workload, level.block, level.radix)
    )
    return total / (workload.length * workload.all_channels)


def measured_workload(times: GpuTimes, time: Time) -> Workload:
    """What a time was measured on, as far as its bytes go."""
    channels, length = times.channels, max(2 * time.size, 1)
    return Workload(length, length, channels, time.rows, time.layers, channels)


@lru_cache(maxsize=32)
def step_line(times: GpuTimes, name: str) -> Line:
    """Of a token's launches over its bytes."""
    points = []
    for time in _of(times, name).steps:
        workload = measured_workload(times, time)
        moved = history_bytes(workload, time.size) + apply_bytes(workload)
        points.append(Point(1 + time.layers, moved, 0.0, time.seconds))
    return fit(points, times.node_seconds).scaled(times.step_scale)


def fft_fills(times: GpuTimes) -> tuple[Time, ...]:
    """Of fills through torch.fft with contiguous time: as they were timed, else the three calls and
    what the bytes take that are moved beside them; none where neither was timed.
    """
    if timed := times.of(FFT):
        return timed.fills
    found = []
    for time in times.fft_fills:
        points = transform_length(time.size) * measured_workload(times, time).all_channels
        seconds = time.seconds + FFT_FILL_BYTES * points / _timed_bandwidth(times)
        found.append(Time(*time[:3], seconds))
    return tuple(found)


def _timed_bandwidth(times: GpuTimes) -> float:
    return times.read_bytes_per_second * times.step_scale  # of the device that was timed


@lru_cache(maxsize=32)
def fill_lines(times: GpuTimes, name: str) -> dict[int, Line]:
    """By block: of a firing's launch over the points of its transforms."""
    bandwidth = _timed_bandwidth(times)
    points: dict[int, list[Point]] = {}
    for time in fft_fills(times) if name == FFT else _of(times, name).fills:
        workload = measured_workload(times, time)
        moved = fill_bytes(workload, time.size, 1, False) / bandwidth
        work = transform_length(time.size) * workload.all_channels
        points.setdefault(time.size, []).append(Point(1, work, moved, time.seconds))
    return {
        block: fit(found, times.node_seconds).scaled(times.work_scale)
        for block, found in points.items()
    }


def made_bytes(workload: Workload, block: int, products: float, makings: float) -> float:
    """Bytes that products of spectra that are made move, beside the fills of their blocks.

    products: of all firings, each for all rows. makings: how many spectra were made for them.
    """
    w, points = workload, transform_length(block) * workload.layers
    of_rows, of_filters = MADE_ROW_BYTES * w.layer_channels, MADE_FILTER_BYTES * w.groups
    return float(points * (products * of_rows + makings * of_filters))


def made_launches(workload: Workload, block: int, makings: float) -> float:
    """What the host launches for them: a layer and as many channels as fit the workspace."""
    parts = _parts(block, workload.layer_channels)
    return MADE_LAUNCHES * workload.layers * makings * parts


def _parts(block: int, channels: int) -> int:
    return math.ceil(8 * transform_length(block) * channels / WORKSPACE_BYTES)


@lru_cache(maxsize=32)
def made_line(times: GpuTimes) -> Line:
    """Of the launches of firings that make spectra, with their fills, over the bytes that they move
    beside these. Some have to have been timed.
    """
    points = []
    for time in times.made:
        workload = measured_workload(times, time)
        launches, moved = (
            made_launches(workload, time.size, 1),
            made_bytes(workload, time.size, 1, 1),
        )
        points.append(Point(launches, moved, 0.0, time.seconds))
    return fit(points, times.node_seconds).scaled(times.step_scale)


def _of(times: GpuTimes, name: str) -> KernelTimes:
    """Raises ValueError for an implementation that was not timed."""
    found = times.of(name)
    if found is None:
        timed = ", ".join(name for name, _ in times.kernels)
        raise ValueError(
            f"the measured rates have no times of {name!r}, only of {timed}: run python -m "
            "futurefill_kernels tune --device cuda again"
        )
    return found


def host_seconds(times: GpuTimes, name: str) -> float:
    """What the host takes for a launch, or a call of torch."""
    timed = times.of(name)
    if name == FFT and timed is None:
        return max(found.launch_seconds for _, found in times.kernels)
    return _of(times, name).launch_seconds


def fill_seconds(
    times: GpuTimes, workload: Workload, name: str, block: int, products: float, keeps: bool
) -> float:
    """Of one firing of an implementation, with the host's launches; arguments as of
    ``fill_bytes``.
    """
    if not own_kernels(workload, name, block) and fft_fills(times):
        name = FFT
    host = fill_launches(workload, name, block) * host_seconds(times, name)
    lines = fill_lines(times, name)
    # beyond one launch the nearest block says nothing of how the others are done
    same = {b: line for b, line in lines.items() if fused(name, b) == fused(name, block)}
    line = between(same or lines, transform_length(block))
    moved = fill_bytes(workload, block, products, keeps) / times.read_bytes_per_second
    return line.seconds(1, transform_length(block) * workload.all_channels, moved) + host


@dataclass(frozen=True)
class GpuCost(CostModel):
    """Costs of a workload from a device's times."""

    workload: Workload
    info: DeviceInfo

    @property
    def names(self) -> list[str]:
        """The workload's implementations as far as they were timed; all where none was."""
        found = [name for name in self.workload.impls if name != FFT]
        return [name for name in found if times_of(self.info).of(name)] or found

    @property
    def fills(self) -> list[str]:
        """These, and fills through torch.fft as far as it was timed."""
        plain = FFT in self.workload.impls and fft_fills(times_of(self.info))
        return [*self.names, FFT] if plain else self.names

    def first(self, block: int) -> float:
        """The short-range convolutions of all layers, averaged over a block."""
        return min(self.steps(name, block) for name in self.names)

    def level(self, block: int, radix: int) -> float:
        """The fills of one level by what is fastest at it."""
        return min(self.level_of(name, block, radix) for name in self.fills)

    def steps(self, name: str, block: int) -> float:
        """The short-range convolutions of an implementation."""
        w = self.workload
        moved = history_bytes(w, block) + apply_bytes(w)
        return step_line(times_of(self.info), name).seconds(1 + w.layers, moved, 0.0)

    def level_of(self, name: str, block: int, radix: int) -> float:
        """The fills of one level of an implementation."""
        total = sum(
            same.times * self.fill(name, block, same.products, same.keeps)
            for same in level_firings(self.workload, block, radix)
        )
        return total / self.workload.length

    def firing(self, block: int, radix: int) -> float:
        """Seconds of a firing in the middle of a group, which keeps its newest input spectrum."""
        return min(self.fill(name, block, radix / 2, True) for name in self.fills)

    def making(self, block: int, radix: int) -> float:
        """The spectra of all products, and a fill for every product, not every firing: as timed,
        else the host's launches, bytes at the measured bandwidth, and modelled fills.
        """
        w, times = self.workload, times_of(self.info)
        products = sum(same.times * same.products for same in level_firings(w, block, radix))
        makings = products * w.makings
        moved, launches = made_bytes(w, block, products, makings), made_launches(w, block, makings)
        if times.made:
            seconds = made_line(times).seconds(launches, moved, 0.0)
        else:
            alone = min(self.fill(name, block, 1, False) for name in self.fills)
            seconds = launches * host_seconds(times, FFT) + moved / times.read_bytes_per_second
            seconds += makings * alone
        return seconds / w.length - self.level(block, radix)

    def fill(self, name: str, block: int, products: float, keeps: bool) -> float:
        """Seconds of one firing of all layers and rows; arguments as of ``fill_bytes``."""
        return fill_seconds(times_of(self.info), self.workload, name, block, products, keeps)
