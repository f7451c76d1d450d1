"""Launch configurations: pure functions of sizes and a DeviceInfo; no Triton, no device."""

from __future__ import annotations

from dataclasses import dataclass

from ...planning.device import DeviceInfo
from ..gpu_passes import MOST_NODES

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
    """One program of future_fill.

    values: V of a thread, and threads: S that share a transform of V S points. channels, warps;
    registers: limit per thread, None where the compiler's own choice is right.
    """

    values: int
    threads: int
    channels: int
    warps: int
    registers: int | None = None

    @property
    def points(self) -> int:
        """Of the transform."""
        return self.values * self.threads

    def shared_bytes(self, transform: int) -> int:
        """Shared memory of an exchange: every value of one component once, 0 without one."""
        return 4 * self.channels * transform if self.threads > 1 else 0


#: Points of a node, the first that leaves few enough nodes: from 2048 on a point takes twice as
#: long in the study that docs/kernels.md cites.
NODE_POINTS = (1024, 2048, 4096)


@dataclass(frozen=True)
class LongConfig:
    """A fill in three passes: nodes of a block, and one program for each."""

    nodes: int
    node: FillConfig


#: From this many values per thread on, and where input spectra are kept, registers do not hold the
#: addresses of rows whose width is not known when the kernel is compiled. Such kernels are compiled
#: for each padded width, the others serve all.
KNOWN_LANES = 32

# transform -> configuration. Times of an H200 are those of the study that docs/kernels.md cites,
# first products of 24 layers of 1024 channels: 12.1 us at 64, 61 at 256, 119 at 512, 240 at 1024,
# 702 at 2048. A thread takes one channel: S C threads. Fewer channels than 8 split sectors, where
# registers leave no choice; blocks up to 16 fill a warp with channels.
_FILL = {
    1: FillConfig(1, 1, 32, 1),
    2: FillConfig(2, 1, 32, 1),
    4: FillConfig(4, 1, 32, 1),
    8: FillConfig(8, 1, 32, 1),
    16: FillConfig(16, 1, 32, 1),
    32: FillConfig(8, 4, 32, 4),
    64: FillConfig(16, 4, 32, 4),
    128: FillConfig(16, 8, 16, 4),
    256: FillConfig(16, 16, 16, 8),
    512: FillConfig(32, 16, 8, 4, 128),
    1024: FillConfig(32, 32, 8, 8, 128),
    2048: FillConfig(64, 32, 4, 4),
    4096: FillConfig(64, 64, 4, 8),
}
# Where input spectra are kept, sums and the newest spectrum stay in registers together; from 2048
# on they do not fit, and up to 700 bytes of a thread spill.
_KEEPING_FILL = {
    **_FILL,
    512: FillConfig(32, 16, 8, 4, 255),
    1024: FillConfig(32, 32, 4, 4, 255),
    2048: FillConfig(64, 32, 4, 4, 255),
}


def history_config(layers: int, lanes: int, rows: int, info: DeviceInfo) -> HistoryConfig:
    """Several rows per program while all SMs stay busy. lanes: padded channels."""
    config = SEVERAL_ROWS
    programs = layers * (lanes // config.channels) * -(-rows // config.rows)
    return config if rows > 1 and programs >= HISTORY_WARPS * info.sm_count else ONE_ROW


def fill_config(transform: int, info: DeviceInfo, keeps: bool = False) -> FillConfig | None:
    """Configuration for a transform length, None where torch.fft does the level instead.

    keeps: whether the level keeps input spectra.
    """
    config = (_KEEPING_FILL if keeps else _FILL).get(transform)
    if config is None:
        return None
    registers = (config.registers or 255) * 32 * config.warps
    fits = config.shared_bytes(transform) <= info.shared_per_block
    return config if fits and registers <= info.registers_per_sm else None


def long_config(transform: int, info: DeviceInfo, keeps: bool = False) -> LongConfig | None:
    """Configuration of three passes, None where torch.fft does the level instead."""
    for points in NODE_POINTS:
        node, nodes = fill_config(points, info, keeps), transform // points
        if node is not None and 2 <= nodes <= MOST_NODES:
            return LongConfig(nodes, node)
    return None
