"""Counts of one launch of a GPU kernel in the PTX emulator, and what ptxas gave it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from tests.emulation import emulator


@dataclass(frozen=True)
class Resources:
    """What ptxas gave a kernel. stack: bytes per thread, 0 when nothing was spilled."""

    registers: int
    shared: int
    stack: int
    warps: int


@dataclass
class Counters:
    """Counts of one launch. Ratios as named; instructions per warp (step) or per T and channel."""

    error: float
    registers: int | None  # None where nothing was compiled for a GPU
    shared_bytes: int
    coalescing: float  # sectors / ideal sectors of the requests
    distinct: float  # distinct bytes / compulsory bytes
    traffic: float  # 32 bytes per sector / compulsory bytes
    conflicts: float  # shared-memory wavefronts / ideal
    wavefronts: float  # of shared memory, per program
    instructions: float
    operations: float  # fp32 operations / nominal
    compulsory: int
    flops: int
    bound: str  # what binds on an H100, from counts alone


def counters(
    stats: Any,
    got: torch.Tensor,
    expected: torch.Tensor,
    compulsory: int,
    nominal: float,
    instructions: float,
    registers: int | None,
) -> Counters:
    """Counters of a launch from the emulator's statistics. got, expected: its outputs."""
    bound = emulator.load().estimate(stats, "h100", registers=registers).bound
    programs = math.prod(stats.grid)
    return Counters(
        error=((got.double() - expected).norm() / expected.norm()).item(),
        registers=registers,
        shared_bytes=stats.shared_bytes,
        coalescing=stats.sectors / sum(stats.global_ideal_sectors.values()),
        distinct=(stats.bytes_read + stats.bytes_written) / compulsory,
        traffic=32 * stats.sectors / compulsory,
        conflicts=stats.shared_wavefronts / max(1, stats.shared_ideal_wavefronts),
        wavefronts=stats.shared_wavefronts / programs,
        instructions=instructions,
        operations=stats.total_flops / nominal,
        compulsory=compulsory,
        flops=stats.total_flops,
        bound=bound,
    )
