"""What a plan costs on a GPU: latencies, and bytes at a share of the record's bandwidth or
operations at its peak rate, whichever takes longer. Nothing here touches a device.

A token is one history of all layers and one launch per layer, which a graph replays; a fill is one
launch of the host's for all layers and rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import Plan, transform_length
from .cost import CostModel
from .device import DeviceInfo
from .workload import Workload, level_firings

#: Measured on an H200 (torch 2.11, CUDA 13.0) with graphs of 24 layers of 1024 channels, one row,
#: T_0 = 16 .. 512: a layer's step, which a launch binds, in seconds.
APPLY_SECONDS = 1.25e-6
#: A history in seconds as long as it moves little, up to T_0 = 32.
HISTORY_SECONDS = 1.7e-6
#: Share of the published bandwidth that a history reaches with more, T_0 = 64 .. 512 and 8 rows.
HISTORY_BANDWIDTH = 0.52
#: The same of fills of 64 and 256.
FILL_BANDWIDTH = 0.35
#: Launches of a longer fill for each layer: pad and twist, two cuFFT calls of two passes, product,
#: addition.
FFT_LAUNCHES = 7
#: Passes over a complex (T,) workspace per channel that a longer fill adds.
FFT_PASSES = 10
#: float32 instructions of both transforms of a fill per T log2 T, counted on compiled kernels.
FILL_INSTRUCTIONS = 7
#: Channels of one program; fewer programs than multiprocessors leave bandwidth unused.
PROGRAM_CHANNELS = 8


def fused(workload: Workload, block: int) -> bool:
    """Whether a fill is one launch and one pass over memory."""
    # the largest is a power of two: blocks that are none are compared like their transforms
    return block <= workload.largest_fused


def history_bytes(workload: Workload, block: int) -> float:
    """Bytes that a token's history must move, averaged over a block: taps and older inputs, pending
    outputs read, they and the sums written.
    """
    w, older = workload, workload.taps_per_step(block) - 1
    return 4.0 * w.layers * (w.groups * older + w.layer_channels * (older + 3))


def apply_bytes(workload: Workload) -> float:
    """Bytes that a token's steps must move then: u, y, the sum and the slot, and a tap."""
    return 4.0 * workload.layers * (4 * workload.layer_channels + workload.groups)


def fill_launches(workload: Workload, block: int) -> int:
    """Launches of one firing of all layers and rows."""
    return 1 if fused(workload, block) else FFT_LAUNCHES * workload.layers


def fill_bytes(workload: Workload, block: int, products: float, keeps: bool) -> float:
    """Bytes that one firing must move: inputs read, pending outputs read and written, kept input
    spectra written once and read later, filter spectra read once for all rows.

    products: spectrum products of the firing. keeps: whether the newest input spectrum is stored.
    """
    n = transform_length(block)
    per_channel = 12 * block + 8 * n * (products - 1 + keeps)
    spectra = workload.groups * 2 * workload.spectra_itemsize * n * products
    return float(workload.layers * (workload.layer_channels * per_channel + spectra))


def workspace_bytes(workload: Workload, block: int) -> int:
    """Bytes that one firing moves beyond those, in the workspace of cuFFT."""
    if fused(workload, block):
        return 0
    return FFT_PASSES * 8 * transform_length(block) * workload.all_channels


def token_bytes(workload: Workload, plan: Plan) -> float:
    """Bytes that fills must move per token, layer and channel of one row, for tables."""
    total = sum(
        same.times * fill_bytes(workload, level.block, same.products, same.keeps)
        for level in plan.levels
        for same in level_firings(workload, level.block, level.radix)
    )
    return total / (workload.length * workload.all_channels)


@dataclass(frozen=True)
class GpuCost(CostModel):
    """Costs of a workload from a device's rates."""

    workload: Workload
    info: DeviceInfo

    def first(self, block: int) -> float:
        """The short-range convolutions of all layers, averaged over a block."""
        w, bandwidth = self.workload, self.info.dram_bytes_per_second
        history = history_bytes(w, block) / (HISTORY_BANDWIDTH * bandwidth)
        steps = w.layers * APPLY_SECONDS + apply_bytes(w) / bandwidth
        return max(HISTORY_SECONDS, history) + steps

    def level(self, block: int, radix: int) -> float:
        """The fills of one level."""
        total = sum(
            same.times * self.fill(block, same.products, same.keeps)
            for same in level_firings(self.workload, block, radix)
        )
        return total / self.workload.length

    def firing(self, block: int, radix: int) -> float:
        """Seconds of a firing in the middle of a group, which keeps its newest input spectrum."""
        return self.fill(block, radix / 2, True)

    def fill(self, block: int, products: float, keeps: bool) -> float:
        """Seconds of one firing of all layers and rows; arguments as of ``fill_bytes``."""
        w, info, n = self.workload, self.info, transform_length(block)
        moved = fill_bytes(w, block, products, keeps) + workspace_bytes(w, block)
        instructions = n * (FILL_INSTRUCTIONS * (n.bit_length() - 1) + 4 * products)
        programs = w.layers * w.batch_size * -(-w.channels // PROGRAM_CHANNELS)
        busy = min(1.0, programs / info.sm_count) if fused(w, block) else 1.0
        # peak rates count a multiply-add as two operations, an instruction
        arithmetic = 2 * instructions * w.all_channels / info.fp32_flops
        seconds = max(moved / (FILL_BANDWIDTH * info.dram_bytes_per_second), arithmetic)
        return seconds / busy + fill_launches(w, block) * info.launch_seconds
