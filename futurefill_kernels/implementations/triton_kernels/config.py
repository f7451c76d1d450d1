"""Launch configurations: pure functions of sizes and a DeviceInfo; no Triton, no device."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...planning.capabilities import CAPABILITIES
from ...planning.device import DeviceInfo

#: Largest transform that one program holds in registers; 4096 spilled in every form tried.
LARGEST_TRANSFORM = CAPABILITIES["triton"].largest_fused
#: Warps of a history with several rows each that have enough bytes in flight, per multiprocessor.
HISTORY_WARPS = 4


@dataclass(frozen=True)
class HistoryConfig:
    """One program, a warp, of history: channels, rows, taps side by side, and how many of those are
    in flight.
    """

    channels: int
    rows: int
    places: int
    steps: int


#: Sectors of 32 bytes and 64 taps at once; lines of 128 bytes, whose taps are read once for 4 rows.
ONE_ROW = HistoryConfig(8, 1, 16, 4)
SEVERAL_ROWS = HistoryConfig(32, 4, 4, 2)


@dataclass(frozen=True)
class FillConfig:
    """One program of future_fill: residues done in turn, channels, warps, register limit."""

    residues: int
    channels: int
    warps: int
    registers: int

    def shared_bytes(self, transform: int) -> int:
        """Shared memory that a layout change of one real tile may take."""
        return 4 * self.channels * transform // self.residues


# Counted on compiled kernels (python -m bench gpu-counters): 8 values of a tile per thread make
# three depths of a tree one group and keep it below 128 registers. A block of 16 with 8 channels
# would give a thread 4 values, which takes more instructions. Fewer channels than 8 would
# split sectors; more would send more exchanges through shared memory and leave more SMs without a
# program. The accumulator of all residues takes 8 registers per residue more. Blocks up to 8 fill a
# warp with channels.
_FILL = {
    8: FillConfig(1, 32, 1, 128),
    16: FillConfig(1, 16, 1, 128),
    32: FillConfig(1, 8, 1, 128),
    64: FillConfig(1, 8, 2, 128),
    128: FillConfig(1, 8, 4, 128),
    256: FillConfig(1, 8, 8, 128),
    512: FillConfig(2, 8, 8, 160),
    1024: FillConfig(4, 8, 8, 200),
    2048: FillConfig(8, 8, 8, 255),
}


def history_config(layers: int, lanes: int, rows: int, info: DeviceInfo) -> HistoryConfig:
    """Several rows per program while all SMs stay busy. lanes: padded channels."""
    config = SEVERAL_ROWS
    programs = layers * (lanes // config.channels) * -(-rows // config.rows)
    return config if rows > 1 and programs >= HISTORY_WARPS * info.sm_count else ONE_ROW


def fill_config(transform: int, info: DeviceInfo, ragged: bool = False) -> FillConfig | None:
    """Configuration for a transform length, None where torch.fft does the level instead.

    ragged: whether the block is shorter than the transform; its bounds take registers: 160 spilled
    at a block of 400, and at 2048 none are left (64 bytes of spills on sm_120).
    """
    if transform > (LARGEST_TRANSFORM // 2 if ragged else LARGEST_TRANSFORM):
        return None
    config = next(config for limit, config in _FILL.items() if transform <= limit)
    if ragged and config.residues > 1:
        config = replace(config, registers=255)
    fits = config.shared_bytes(transform) <= info.shared_per_block
    fits &= config.registers * 32 * config.warps <= info.registers_per_sm
    return config if fits else None
