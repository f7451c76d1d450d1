"""Launch configurations: pure functions of sizes and a DeviceInfo; no Triton, no device."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...planning.capabilities import CAPABILITIES
from ...planning.device import DeviceInfo

#: Largest transform that one program holds in registers; 4096 spilled in every form tried.
LARGEST_TRANSFORM = CAPABILITIES["triton"].largest_fused
#: A sector of float32 values: channels of one warp of a step.
STEP_CHANNELS = 8
#: Taps of a step in registers at once.
STEP_TAPS = 64
#: Of them, those that the lanes of a warp share, with one vector of four channels per lane.
STEP_SHARED = 16
#: Most sectors of a program, for a single row.
STEP_SECTORS = 8
#: Rows that share one load of the taps; 8 would need more than 96 registers.
STEP_ROWS = 4


@dataclass(frozen=True)
class StepConfig:
    """One program of short_range_step: channels and rows it does, taps at a time."""

    channels: int
    rows: int
    tile: int
    warps: int = 1


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


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def step_config(
    block: int, channels: int, rows: int, info: DeviceInfo, last: bool = False
) -> StepConfig:
    """A warp per 8 channels; more rows per program while all SMs stay busy.

    block: ``T_0``. rows: R of this step. Several rows read the taps once. last: whether it is the
    last layer's, which also moves the positions on.
    """
    tile = min(_power_of_two(block), STEP_TAPS)
    if rows == 1:
        # Lanes of a sector. Programs of one warp spread over as many SMs as there are.
        lanes = 2 * min(tile, STEP_SHARED)
        sectors = max(1, 32 // lanes)
        if last:
            # Fewer programs read and count the position: at the start of a block of 64, programs of
            # one warp would move 1.20 times the compulsory bytes in whole sectors, these 1.02.
            sectors = STEP_SECTORS
        sectors = min(sectors, STEP_SECTORS)
        return StepConfig(sectors * STEP_CHANNELS, 1, tile, max(1, sectors * lanes // 32))
    tiles = -(-channels // STEP_CHANNELS)
    together = min(STEP_ROWS, _power_of_two(rows))
    while together > 1 and tiles * -(-rows // together) < info.sm_count:
        together //= 2
    # four rows of 64 taps at a time take more than 96 registers
    return StepConfig(STEP_CHANNELS, together, tile if together < STEP_ROWS else min(tile, 32))


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
