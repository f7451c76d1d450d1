"""Counters of the CUDA kernels: one launch in the PTX emulator, checked against float64.

The operations and instructions of ``fill_row`` leave out the product with the filter's spectrum, 8
and 4 per entry. ``compiled``: whether registers are counted, too, as the most of what ptxas gives a
kernel on any architecture; that compiles them all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import torch

from futurefill_kernels.implementations import cuda_early
from futurefill_kernels.plan import Plan
from futurefill_kernels.state.tensors import StreamState
from tests.emulation import launch_shapes, prompt_counters, token_counters
from tests.emulation.cases import (
    ApplyCase,
    EarlyFillCase,
    FillCase,
    HistoryCase,
    LongFillCase,
    PrefillCase,
)
from tests.emulation.counters import Counters, Resources, counters
from tests.emulation.cuda_compile import CAPABILITIES, Row, resources
from tests.emulation.cuda_rig import (
    make_state,
    run_apply,
    run_fill,
    run_history,
    run_inputs,
    run_long_fill,
    run_outputs,
)
from tests.emulation.launch_shapes import (
    MEMORIES,
    fill_config,
    least_memory,
    least_node_memory,
    memories,
    node_config,
)
from tests.oracles import fill

FILL_BLOCKS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
#: blocks that only this implementation fuses, and ways of its own
MORE_FILL_CASES = (
    FillCase(8192, 1024, 1, 1, 2),
    *(EarlyFillCase(block, 1024 if block <= 256 else 128, 1, 1, 2) for block in cuda_early.TILES),
    *(EarlyFillCase(block, 64, 8, 1, 2) for block in (64, 256)),
    *(LongFillCase(block, 32, 1, 1, 2) for block in (16384, 65536)),
    LongFillCase(16384, 32, 2, 1, 2),
)
#: architecture -> shared memory of an SM, an index into MEMORIES
MEMORY = dict(zip(CAPABILITIES, (1, 0, 0, 2, 2, 0), strict=True))


def count_fill(
    case: FillCase, capability: int = 80, checks: bool = False, compiled: bool = True
) -> Counters:
    """Counters of firing ``case.index`` after the ones before it, on SMs of ``capability``."""
    found, _ = _run_fill(case, MEMORY[capability], capability, checks, compiled)
    return found


def count_history(
    case: HistoryCase, capability: int = 80, checks: bool = False, compiled: bool = True
) -> Counters:
    """Counters of one launch at ``case.position`` in every row."""
    found, _ = _run_history(case, capability, checks, compiled)
    return found


def count_apply(
    case: ApplyCase, capability: int = 80, checks: bool = False, compiled: bool = True
) -> Counters:
    """Counters of one token of one layer."""
    state, h = _stream_of(Plan(8, (8,)), case.channels, case.batch, 1)

    def run(state: StreamState, u: torch.Tensor, y: torch.Tensor) -> Any:
        token = (u, None, None, y, None, 0, case.last)
        return run_apply(state, *token, arch=f"sm_{capability}", checks=checks)

    registers = _most("apply_step.cu", "apply_step")["registers"] if compiled else None
    return token_counters.count_apply(case, state, h, run, _warps, lambda _: registers)


def count_prefill(
    case: PrefillCase, capability: int = 80, checks: bool = False, compiled: bool = True
) -> Counters:
    """Counters of one launch."""
    kernel = partial(
        run_inputs if case.part == "inputs" else run_outputs,
        arch=f"sm_{capability}",
        checks=checks,
    )
    registers = _most("prefill.cu", f"prefill_{case.part}")["registers"] if compiled else None
    return prompt_counters.count(case, kernel, lambda _: registers)


#: type of a case -> what counts one
COUNT = {
    FillCase: count_fill, EarlyFillCase: count_fill, LongFillCase: count_fill,
    PrefillCase: count_prefill,
    HistoryCase: count_history, ApplyCase: count_apply,
}  # fmt: skip


def _run_fill(
    case: FillCase, memory: int, capability: int, checks: bool, compiled: bool
) -> tuple[Counters, Any]:
    plan = Plan(case.block * case.radix, (case.block,))
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(case.channels, plan.length, generator=generator)
    state, level = make_state([h], plan, case.batch), plan.levels[0]
    early = isinstance(case, EarlyFillCase)
    if early:
        cuda_early.arrange_level(state.spectra[0], level, state.filters[0], state.layout)
    state.ring[..., : case.channels].normal_(generator=generator)
    clean = state.ring.clone()
    options: dict[str, Any] = {"memory": memory, "arch": f"sm_{capability}", "checks": checks}
    for i in range(1, case.index + 1):
        state.positions.fill_(i * case.block)
        state.ring.copy_(clean)
        if isinstance(case, LongFillCase):
            first, *others = run_long_fill(state, level, **options)
            stats = sum(others, first)
        else:
            stats = run_fill(state, level, early=early, **options)
    start, stop = case.index * case.block, (case.index + 1) * case.block
    u = clean[0, :, 0, :start, : case.channels].mT
    before = clean[0, :, 0, start:stop, : case.channels].double().mT
    expected = before + fill(u, h, case.block)
    got = state.ring[0, :, 0, start:stop, : case.channels].mT
    instructions = stats.total_thread_insts / (case.block * case.channels * case.batch)
    registers = None
    if compiled and isinstance(case, LongFillCase):
        registers = _most("long_fill.cu", "")["registers"]
    elif compiled:
        found = fill_resources("early_fill.cu" if early else "future_fill.cu")
        registers = found[case.block, least_memory(case.block, memory)]["registers"]
    return counters(
        stats, got, expected, case.compulsory, case.nominal_flops, instructions, registers
    ), stats


def _stream_of(
    plan: Plan, channels: int, batch: int, layers: int
) -> tuple[StreamState, torch.Tensor]:
    """A stream with random inputs in its ring, and the filters (D, L) of all its layers."""
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(channels, plan.length, generator=generator)
    state = make_state([h] * layers, plan, batch)
    state.ring[..., :channels].normal_(generator=generator)
    return state, h


def _warps(stats: Any) -> int:
    return int(stats.blocks * stats.threads_per_block // 32)


def _run_history(
    case: HistoryCase, capability: int, checks: bool, compiled: bool
) -> tuple[Counters, Any]:
    plan = token_counters.plan_of(case)
    state, h = _stream_of(plan, case.channels, case.batch, case.layers)
    registers = None
    if compiled:
        kernel = launch_shapes.history(state, None).kernel
        registers = _most("history.cu", f"ILi{_history_rows(kernel)}E")["registers"]

    def run(state: StreamState) -> Any:
        return run_history(state, arch=f"sm_{capability}", checks=checks)

    return token_counters.count_history(case, state, h, run, _warps, lambda _: registers)


def _history_rows(kernel: str) -> int:
    """Batch rows of a warp."""
    return int(kernel.split("<")[1].split(",")[0])


def fill_row(block: int, memory: int = 1, channels: int = 32) -> Row:
    """First firing of a radix-2 level, one row of one layer: what the tables do not share."""
    case = FillCase(block, channels, 1, 1, 2)
    found, stats = _run_fill(case, memory, 80, False, False)
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


def history_row(channels: int, batch: int, layers: int, taps: int = 64) -> Row:
    """The history at the end of a block, where all taps count."""
    case = HistoryCase(taps, channels, batch, 2 * taps - 1, layers)
    found, stats = _run_history(case, 80, False, False)
    return {
        "warps": _warps(stats),
        "sectors": found.traffic,
        "ideal": found.coalescing,
        "bytes": found.distinct,
        "barriers": _block_barriers(stats),
    }


def _most(file: str, name: str) -> Row:
    """Most registers, shared and spilled bytes of a file's kernels with ``name`` in theirs."""
    rows = [row for row in resources(file) if name in row["kernel"]]
    return {field: max(row[field] for row in rows) for field in ("registers", "shared", "spilled")}


def _worst(file: str, kernel: str, least: Callable[[int, int], int]) -> dict[tuple[int, int], Row]:
    """(points, memory) -> most registers and spilled bytes over the architectures that run it.

    kernel: expression of both in a kernel's name. least: `least_memory` of these kernels.
    """
    worst: dict[tuple[int, int], Row] = {}
    for row in resources(file):
        match = re.search(kernel, row["kernel"])
        if match is None:
            continue
        points, memory = int(match[1]), int(match[2])
        if least(points, MEMORY[row["sm"]]) != memory:
            continue
        kept = worst.setdefault((points, memory), {"registers": 0, "spilled": 0})
        for name in kept:
            kept[name] = max(kept[name], row[name])
    return dict(sorted(worst.items()))


@lru_cache(maxsize=2)
def fill_resources(file: str = "future_fill.cu") -> dict[tuple[int, int], Row]:
    """(block, memory) -> most registers and spilled bytes over the architectures that run it; of
    blocks that are powers of two. file: or that of the second form.
    """
    return _worst(file, r"ConfigOfILi(\d+)ELi(\d)ELb1E", least_memory)


def _config_resources(row: Row, config: Any) -> Resources:
    return Resources(row["registers"], config.shared_bytes, row["spilled"], config.threads // 32)


def resource_rows() -> Iterator[tuple[str, int, Resources]]:
    """Every kernel's registers and spills, the most of the architectures with its shared memory."""
    devices = (120, 80, 90)  # by memory

    def of_memory(memory: int, several: bool) -> str:
        return f", from {MEMORIES[memory]} of shared memory" if several else ""

    for file, form in (("future_fill.cu", ""), ("early_fill.cu", " in the second form")):
        for (block, memory), row in fill_resources(file).items():
            where = of_memory(memory, len(memories(block)) > 1)
            used = _config_resources(row, fill_config(block, memory))
            yield f"future_fill{form}, block {block}{where}", devices[memory], used
    found = _worst("long_fill.cu", r"NodesOfILi(\d+)ELi(\d)E", least_node_memory)
    for (points, memory), row in found.items():
        where = of_memory(memory, least_node_memory(points, len(MEMORIES) - 1) > 0)
        used = _config_resources(row, node_config(points, memory))
        yield f"transform_nodes, points: {points}{where}", devices[memory], used
    for name in ("split_block", "merge_block"):
        for nodes in (16, 32, 64):
            most = _most("long_fill.cu", f"{name}ILi{nodes}E")
            used = Resources(most["registers"], most["shared"], most["spilled"], 4)
            yield f"{name}, nodes: {nodes}", 80, used
    for rows in (1, 4):
        most = _most("history.cu", f"ILi{rows}E")
        used = Resources(most["registers"], most["shared"], most["spilled"], 4)
        yield f"history, rows of a warp: {rows}", 80, used
    most = _most("apply_step.cu", "apply_step")
    yield "apply_step", 80, Resources(most["registers"], most["shared"], most["spilled"], 4)
    for name in ("prefill_inputs", "prefill_outputs"):
        most = _most("prefill.cu", name)
        yield name, 80, Resources(most["registers"], most["shared"], most["spilled"], 8)
