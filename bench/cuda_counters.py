"""What the CUDA kernels do, counted on their PTX by the emulator: counts, not times.

fill_rows and step_rows return one record per configuration; tables renders them as Markdown for
docs/kernels.md. needed: bytes that must move, each once. Operations and instructions leave out the
product with the filter's spectrum, 8 and 4 per entry.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from functools import lru_cache
from typing import Any

import torch

from futurefill_kernels import reference_ops
from futurefill_kernels.plan import Plan
from futurefill_kernels.state import allocate

from .cuda_harness import (
    MEMORIES,
    NVCC_FLAGS,
    SOURCES,
    fill_config,
    make_state,
    memories,
    run_fill,
    run_step,
)

FILL_BLOCKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
Row = dict[str, Any]


def fill_row(block: int, memory: int = 1, channels: int = 32) -> Row:
    """First firing of a radix-2 level, one row of one layer."""
    torch.manual_seed(block)
    plan = Plan(2 * block, (block,))
    filters = torch.randn(channels, 2 * block)
    state = make_state([filters], plan, 1)
    state.ring.normal_()
    reference = allocate(
        plan,
        reference_ops.make_layout(channels, channels, torch.float64, plan),
        reference_ops.make_spectra,
        [filters.double()],
        1,
        None,
    )
    reference.ring.copy_(state.ring[..., :channels])
    state.positions[:] = reference.positions[:] = block
    stats = run_fill(state, plan.levels[0], memory=memory, checks=False)
    reference_ops.fill(reference, plan.levels[0], None)
    difference = state.ring[..., block:, :channels].double() - reference.ring[..., block:, :]
    needed = 20 * block * channels
    entries = block * channels
    config = fill_config(block, memory)
    fp32 = sum(stats.thread_insts.get(f"fp32_{kind}", 0) for kind in ("add", "mul", "fma"))
    warps = config.threads // 32 * stats.blocks
    log = math.log2(block)
    return {
        "block": block,
        "memory": MEMORIES[memory],
        "exchange": "halves" if config.split else "whole",
        "channels": config.channels * config.staged,
        "threads": config.threads,
        "shared": config.shared_bytes,
        "error": float(difference.norm() / reference.ring[..., block:, :].norm()),
        "sectors": 32 * stats.sectors / needed,
        "bytes": (stats.bytes_read + stats.bytes_written) / needed,
        "banks": stats.bank_conflict_factor,
        "operations": (stats.flops["fp32"] - 8 * entries) / (10 * entries * log),
        "instructions": (fp32 - 4 * entries) / (entries * log),
        "barriers": _block_barriers(stats) / warps,
        "exchanges": config.staged
        * (0 if config.points == block else 2 * (1 + (config.middle > 1))),
    }


def _block_barriers(stats: Any) -> int:
    """Barriers of the whole block that warps passed; those inside a warp are left out."""
    return sum(row.warp for row in stats.rows if row.text.startswith("bar.sync"))


def fill_rows() -> list[Row]:
    """Every block size, and for devices with little shared memory where that is another kernel."""
    return [fill_row(block, memory) for block in FILL_BLOCKS for memory in memories(block)]


def step_row(channels: int, batch: int, taps: int = 64, dtype: torch.dtype = torch.float32) -> Row:
    """The step at the end of a block, where all taps count."""
    torch.manual_seed(channels)
    plan = Plan(2 * taps, (taps,))
    state = make_state([torch.randn(channels, taps)], plan, batch)
    state.ring.normal_()
    state.positions[:] = taps - 1
    u = torch.randn(batch, channels).to(dtype)
    stats = run_step(state, u, None, None, torch.empty_like(u), None, 0, True, checks=False)
    values = channels * (batch * (taps + 1) + taps)  # inputs, pending and stored; taps
    needed = 4 * values + 2 * u.nbytes
    warps = stats.blocks * stats.threads_per_block // 32
    return {
        "channels": channels,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "blocks": stats.blocks,
        "sectors": 32 * stats.sectors / needed,
        "ideal": 1 / stats.coalescing,
        "bytes": (stats.bytes_read + stats.bytes_written) / (needed + 16 * batch),
        "barriers": _block_barriers(stats) / warps,
    }


def step_rows() -> list[Row]:
    """Shapes of the required figures."""
    shapes = ((1024, 1), (1024, 8), (4096, 1), (256, 8))
    rows = [step_row(channels, batch) for channels, batch in shapes]
    return [*rows, step_row(1024, 1, dtype=torch.bfloat16), step_row(1000, 1)]


@lru_cache(maxsize=2)
def resources(source: str) -> list[Row]:
    """Registers and spilled bytes of every kernel of a file on every architecture, from ptxas."""
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    command = ["nvcc", *NVCC_FLAGS, *codes, "-Xptxas=-v", "-c", "-o", os.devnull]
    result = subprocess.run(
        [*command, str(SOURCES / source)], check=True, capture_output=True, text=True
    )
    rows: list[Row] = []
    for line in result.stderr.splitlines():
        entry = re.search(r"Compiling entry function '(\S+)' for 'sm_(\d+)'", line)
        spill = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)
        used = re.search(r"Used (\d+) registers", line)
        if entry:
            rows.append({"kernel": entry[1], "sm": int(entry[2])})
        elif spill and rows:
            rows[-1]["spilled"] = int(spill[1])
        elif used and rows:
            rows[-1]["registers"] = int(used[1])
    return rows


def fill_resources() -> dict[tuple[int, str], Row]:
    """(block, memory) -> most registers and most spilled bytes over the architectures."""
    worst: dict[tuple[int, str], Row] = {}
    for row in resources("future_fill.cu"):
        match = re.search(r"ConfigOfILi(\d+)ELi(\d)E", row["kernel"])
        assert match is not None
        key = (int(match[1]), MEMORIES[int(match[2])])
        kept = worst.setdefault(key, {"registers": 0, "spilled": 0})
        for name in kept:
            kept[name] = max(kept[name], row[name])
    return worst


def _table(rows: list[Row]) -> str:
    def text(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:.1e}" if value < 1e-3 else f"{value:.3f}".rstrip("0").rstrip(".")

    lines = [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
    return "\n".join(lines + [f"| {' | '.join(text(v) for v in row.values())} |" for row in rows])


def tables() -> str:
    """The Markdown of docs/kernels.md on the CUDA kernels."""
    fills = fill_rows()
    worst = fill_resources()
    for row in fills:
        row |= worst[row["block"], row["memory"]]
    return (
        f"Future fill:\n\n{_table(fills)}\n\nShort-range step, 64 taps:\n\n{_table(step_rows())}\n"
    )


if __name__ == "__main__":
    print(tables())
