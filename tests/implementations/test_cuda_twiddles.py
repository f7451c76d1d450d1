"""The tables of twiddle factors in the compiled CUDA kernels, against float64, and planted faults
in their copies."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from futurefill_kernels.plan import Plan
from tests.emulation import emulator, launch_shapes
from tests.emulation.cuda_compile import module
from tests.emulation.cuda_rig import run_fill, run_long_fill
from tests.fast import combinations
from tests.implementations.cuda_pairs import make_pair, needs_emulator

pytestmark = needs_emulator


def node_angles(root: float, nodes: int, radix: int) -> list[np.ndarray]:
    """Half turns, for every stored level of a pass on the nodes of a tree: of each one's first
    descendant in that level the root.

    A node x^m - c, c at angle a, has children at a / 2 and a / 2 + 1.
    """
    angles = np.array([root])
    for _ in range(int(math.log2(nodes))):
        angles = np.stack([angles / 2, angles / 2 + 1], axis=1).ravel()
    return [angles / 2 ** (level + 1) for level in range(1, int(math.log2(radix)))]


def position_angles(positions: int, radix: int) -> list[np.ndarray]:
    """Likewise of the way back, on positions."""
    p = np.arange(positions)
    return [-p / (positions * 2**level) for level in range(1, int(math.log2(radix)))]


def expected_table(block: int, memory: int, root: float) -> np.ndarray:
    config = launch_shapes.fill_config(block, memory)
    first, middle, last, width = config.points, config.middle, config.last, config.width
    angles = [*node_angles(root, block // last, last), *position_angles(width, first)]
    angles.append(-np.arange(width) / (2 * block))
    if middle > 1:
        angles += [*node_angles(root, first, middle), *position_angles(last, middle)]
    turned = math.pi * np.concatenate(angles)
    return np.stack([np.cos(turned), np.sin(turned)]).astype(np.float32)


def tables(file: str, kernel: str) -> list[np.ndarray]:
    """The tables in a kernel's PTX, (2, entries)."""
    compiled = module(file, kernel)
    names = re.findall(r"\.b8 (\S*twiddle_values\S*?)\[", compiled.ptx)
    return [compiled.symbol(name, np.float32).reshape(2, -1) for name in names]


@pytest.mark.parametrize(
    ("block", "memory", "form"),
    combinations(
        [
            *((block, 0, "true") for block in (64, 128, 256, 1024)),
            *((block, 0, "true, true") for block in (64, 128, 256, 1024)),
            *((512, 1, "true"), (2048, 0, "true"), (2048, 1, "true, true"), (4096, 1, "true")),
            *((8192, 0, "true"), (8192, 2, "true"), (4096, 0, "false")),
        ],
        fast=[(64, 0, "true, true"), (2048, 0, "true")],
    ),
)  # fmt: skip
def test_tables_of_fills_are_rounded_once(block, memory, form):
    (found,) = tables("future_fill.cuh", f"future_fill<ConfigOf<{block}, {memory}, {form}>>")
    assert np.array_equal(found, expected_table(block, memory, 0.5))


@pytest.mark.parametrize(
    ("points", "memory"), combinations([(1024, 1), (2048, 0), (4096, 0)], fast=[(1024, 1)])
)
def test_tables_of_nodes_are_rounded_once(points, memory):
    (found,) = tables("long_fill.cuh", f"transform_nodes<NodesOf<{points}, {memory}>>")
    assert np.array_equal(found, expected_table(points, memory, 0.0))


def test_one_pass_has_no_table():
    assert not tables("future_fill.cuh", "future_fill<ConfigOf<32, 0>>")


FAULTS = {
    "a copy that is not waited for": ("future_fill.cuh", "Table::wait();", "", "race"),
    "a piece too many": ("twiddles.cuh", "if (at < kBytes)", "if (at <= kBytes)", "out-of-bounds"),
    "a piece too few": (
        "twiddles.cuh", "if (at < kBytes)", "if (at + kPiece < kBytes)", "uninit",
    ),
    "one place too far": ("twiddles.cuh", "(copy) + at", "(copy) + at + 16", "out-of-bounds"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_in_the_copy(fault):
    file, text, replacement, expected = FAULTS[fault]
    plan = Plan(2 * 64, (64,))
    state, _ = make_pair(plan, 16)
    state.positions[:] = 64
    with pytest.raises(emulator.load().EmuError, match=expected):
        run_fill(state, plan.levels[0], edits=((file, text, replacement),))


def test_planted_fault_in_the_copy_of_nodes():
    plan = Plan(2 * 16384, (16384,))
    state, _ = make_pair(plan, 2)
    state.positions[:] = 16384
    with pytest.raises(emulator.load().EmuError, match="race"):
        run_long_fill(state, plan.levels[0], edits=(("long_fill.cuh", "Table::wait();", ""),))
