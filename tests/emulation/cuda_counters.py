"""Counters of the CUDA kernels: one launch in the PTX emulator, checked against float64.

The operations and instructions of ``fill_row`` leave out the product with the filter's spectrum, 8
and 4 per entry.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import torch

from futurefill_kernels.plan import Plan
from futurefill_kernels.state.convolve import conv_range
from tests.emulation import prompt_counters
from tests.emulation.cases import FillCase, PrefillCase, ProductCase, StepCase
from tests.emulation.counters import Counters, Resources, counters
from tests.emulation.cuda_prompt_rig import run_inputs, run_outputs
from tests.emulation.cuda_rig import (
    MEMORIES,
    NVCC_FLAGS,
    SOURCES,
    config_memory,
    fill_config,
    make_state,
    memories,
    run_fill,
    run_products,
    run_step,
    step_config,
)
from tests.emulation.product_counters import count_products, plan_of

FILL_BLOCKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
MORE_FILL_CASES = (FillCase(4096, 1024, 1, 1, 2), FillCase(8192, 1024, 1, 1, 2))
#: architecture -> shared memory of an SM, an index into MEMORIES
MEMORY = {80: 1, 86: 0, 89: 0, 90: 2, 100: 2, 120: 0}
#: name of the kernel between the transforms of torch.fft
PRODUCTS = "spectrum_products"
Row = dict[str, Any]


def count_fill(case: FillCase, capability: int = 80, checks: bool = False) -> Counters:
    """Counters of firing ``case.index`` after the ones before it, on SMs of ``capability``."""
    found, _ = _run_fill(case, MEMORY[capability], capability, checks)
    return found


def count_step(case: StepCase, capability: int = 80, checks: bool = False) -> Counters:
    """Counters of one step at ``case.position`` in every row."""
    found, _ = _run_step(case, capability, checks)
    return found


def count_product(case: ProductCase, capability: int = 80, checks: bool = False) -> Counters:
    """Counters of the products of firing ``case.index`` after the ones before it."""
    plan = plan_of(case)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(case.channels, plan.length, generator=generator)

    def run(*arguments: Any) -> Any:
        return run_products(*arguments, 0, 0, arch=f"sm_{capability}", checks=checks)

    registers = max(row["registers"] for row in resources("spectrum_products.cu"))
    return count_products(case, make_state([h], plan, case.batch), run, lambda _: registers)


def count_prefill(case: PrefillCase, capability: int = 80, checks: bool = False) -> Counters:
    """Counters of one launch."""
    kernel = run_inputs if case.part == "inputs" else run_outputs
    used = [r for r in resources("prefill.cu") if f"prefill_{case.part}" in r["kernel"]]
    return prompt_counters.count(
        case,
        partial(kernel, arch=f"sm_{capability}", checks=checks),
        lambda _: max(row["registers"] for row in used),
    )


def _run_fill(case: FillCase, memory: int, capability: int, checks: bool) -> tuple[Counters, Any]:
    plan = Plan(case.block * case.radix, (case.block,))
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(case.channels, plan.length, generator=generator)
    state = make_state([h], plan, case.batch)
    state.ring[..., : case.channels].normal_(generator=generator)
    clean = state.ring.clone()
    for i in range(1, case.index + 1):
        state.positions.fill_(i * case.block)
        state.ring.copy_(clean)
        stats = run_fill(
            state, plan.levels[0], memory=memory, arch=f"sm_{capability}", checks=checks
        )
    start, stop = case.index * case.block, (case.index + 1) * case.block
    u = clean[0, :, 0, :start, : case.channels].mT
    before = clean[0, :, 0, start:stop, : case.channels].double().mT
    expected = before + conv_range(u, h.double(), start, stop)
    got = state.ring[0, :, 0, start:stop, : case.channels].mT
    instructions = stats.total_thread_insts / (case.block * case.channels * case.batch)
    registers = fill_resources()[case.block, MEMORIES[config_memory(case.block, memory)]]
    return counters(
        stats, got, expected, case.compulsory, case.nominal_flops, instructions,
        registers["registers"],
    ), stats  # fmt: skip


def _run_step(case: StepCase, capability: int, checks: bool) -> tuple[Counters, Any]:
    plan = Plan(4 * case.block, (case.block,))
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(case.channels, plan.length, generator=generator)
    state = make_state([h], plan, case.batch)
    state.ring[..., : case.channels].normal_(generator=generator)
    state.positions.fill_(case.position)
    u = torch.randn(case.batch, case.channels, generator=generator).to(case.dtype)
    y = torch.full_like(u, float("nan"))
    taken = case.position % case.block
    near = state.ring[0, :, 0, case.position - taken : case.position, : case.channels].double()
    expected = state.ring[0, :, 0, case.position, : case.channels].double() + u.double() * h[:, 0]
    expected += (near.flip(1) * h[:, 1 : taken + 1].double().T).sum(1)
    stats = run_step(
        state, u, None, None, y, None, 0, case.last, arch=f"sm_{capability}", checks=checks
    )
    assert state.positions.tolist() == [case.position + case.last] * case.batch
    warps = stats.blocks * stats.threads_per_block // 32
    rows, _ = step_config(case.batch, case.channels, case.block)
    registers = max(
        row["registers"]
        for row in resources("short_range_step.cu")
        if f"Li{rows}E" in row["kernel"]
    )
    return counters(
        stats, y, expected, case.compulsory, case.nominal_flops, stats.total_warp_insts / warps,
        registers,
    ), stats  # fmt: skip


def fill_row(block: int, memory: int = 1, channels: int = 32) -> Row:
    """First firing of a radix-2 level, one row of one layer: what the tables do not share."""
    case = FillCase(block, channels, 1, 1, 2)
    found, stats = _run_fill(case, memory, 80, False)
    entries = block * channels
    config = fill_config(block, memory)
    fp32 = sum(stats.thread_insts.get(f"fp32_{kind}", 0) for kind in ("add", "mul", "fma"))
    warps = config.threads // 32 * stats.blocks
    log = math.log2(block)
    passes = 1 if config.points == block else 2 if config.middle == 1 else 3
    return {
        "block": block,
        "memory": MEMORIES[memory],
        "exchange": "halves" if config.split else "whole",
        "channels": config.channels * config.staged,
        "threads": config.threads,
        "shared": config.shared_bytes,
        "error": found.error,
        "sectors": found.traffic,
        "bytes": found.distinct,
        "banks": found.conflicts,
        "operations": (stats.flops["fp32"] - 8 * entries) / (10 * entries * log),
        "instructions": (fp32 - 4 * entries) / (entries * log),
        "barriers": _block_barriers(stats) / warps,
        "exchanges": 2 * (passes - 1) * config.staged,
    }


def _block_barriers(stats: Any) -> int:
    """Barriers of the whole block that warps passed; those inside a warp are left out."""
    return sum(row.warp for row in stats.rows if row.text.startswith("bar.sync"))


def fill_rows() -> list[Row]:
    """Every block size, and for devices with little shared memory where that is another kernel."""
    return [fill_row(block, memory) for block in FILL_BLOCKS for memory in memories(block)]


def step_row(channels: int, batch: int, taps: int = 64, dtype: torch.dtype = torch.float32) -> Row:
    """The step at the end of a block, where all taps count."""
    found, stats = _run_step(StepCase(taps, channels, batch, 2 * taps - 1, dtype), 80, False)
    warps = stats.blocks * stats.threads_per_block // 32
    return {
        "channels": channels,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "blocks": stats.blocks,
        "sectors": found.traffic,
        "ideal": found.coalescing,
        "bytes": found.distinct,
        "barriers": _block_barriers(stats) / warps,
    }


@lru_cache(maxsize=3)
def resources(source: str) -> list[Row]:
    """Registers and spilled bytes of every kernel of a file on every architecture, from ptxas."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = list(pool.map(partial(_ptxas, source), MEMORY))
    rows: list[Row] = []
    for line in "\n".join(texts).splitlines():
        entry = re.search(r"Compiling entry function '(\S+)' for 'sm_(\d+)'", line)
        spill = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)
        used = re.search(r"Used (\d+) registers", line)
        if entry:
            rows.append({"kernel": entry[1], "sm": int(entry[2])})
        elif spill and rows:
            rows[-1]["spilled"] = int(spill[1])
        elif used and rows:
            rows[-1]["registers"] = int(used[1])
            static = re.search(r"(\d+) bytes smem", line)
            rows[-1]["shared"] = int(static[1]) if static else 0
    return rows


def _ptxas(source: str, capability: int) -> str:
    """What ptxas says of a file's kernels on one architecture."""
    code = f"-gencode=arch=compute_{capability},code=sm_{capability}"
    command = ["nvcc", *NVCC_FLAGS, code, "-Xptxas=-v", "-c", "-o", os.devnull]
    result = subprocess.run(
        [*command, str(SOURCES / source)], check=True, capture_output=True, text=True
    )
    return result.stderr


@lru_cache(maxsize=1)
def fill_resources() -> dict[tuple[int, str], Row]:
    """(block, memory) -> most registers and spilled bytes over the architectures that run it."""
    worst: dict[tuple[int, str], Row] = {}
    for row in resources("future_fill.cu"):
        match = re.search(r"ConfigOfILi(\d+)ELi(\d)E", row["kernel"])
        assert match is not None
        block, memory = int(match[1]), int(match[2])
        if config_memory(block, MEMORY[row["sm"]]) != memory:
            continue
        kept = worst.setdefault((block, MEMORIES[memory]), {"registers": 0, "spilled": 0})
        for name in kept:
            kept[name] = max(kept[name], row[name])
    return worst


def resource_rows() -> Iterator[tuple[str, int, Resources]]:
    """Every kernel's registers and spills, the most of the architectures with its shared memory."""
    devices = dict(zip(MEMORIES, (120, 80, 90), strict=True))
    for (block, memory), row in sorted(fill_resources().items()):
        config = fill_config(block, MEMORIES.index(memory))
        used = Resources(
            row["registers"], config.shared_bytes, row["spilled"], config.threads // 32
        )
        only = "" if len(memories(block)) == 1 else f", from {memory} of shared memory"
        yield f"future_fill, block {block}{only}", devices[memory], used
    for rows in (1, 2, 8):
        kernels = [r for r in resources("short_range_step.cu") if f"Li{rows}E" in r["kernel"]]
        most = {name: max(r[name] for r in kernels) for name in ("registers", "shared", "spilled")}
        _, threads = step_config(rows, 1024, 64)
        used = Resources(most["registers"], most["shared"], most["spilled"], threads // 32)
        yield f"short_range_step, T_0=64, {rows} rows a block", 80, used
    for name, file in (
        ("spectrum_products", "spectrum_products.cu"),
        ("prefill_inputs", "prefill.cu"),
        ("prefill_outputs", "prefill.cu"),
    ):
        kernels = [r for r in resources(file) if name in r["kernel"]]
        most = {
            field: max(r[field] for r in kernels) for field in ("registers", "shared", "spilled")
        }
        yield name, 80, Resources(most["registers"], most["shared"], most["spilled"], 8)
