"""What the CUDA kernels move and execute, counted on their PTX, stays within the limits."""

from __future__ import annotations

import pytest
import torch

from tests.emulation import cuda_counters
from tests.emulation.cases import ApplyCase, EarlyFillCase, LongFillCase
from tests.emulation.cuda_compile import resources, unavailable
from tests.emulation.launch_shapes import fill_config, memories
from tests.fast import combinations

pytestmark = pytest.mark.skipif(
    unavailable() is not None, reason=f"no CUDA emulation: {unavailable()}"
)
#: one block size per code path: one pass, two passes, their exchanges in halves, three passes
FAST = ((16, 0), (64, 0), (512, 0), (2048, 1))


def fill_cases():
    """Every block size and memory with a kernel of its own."""
    if unavailable() is not None:
        return []
    kernels = [(block, m) for block in cuda_counters.FILL_BLOCKS for m in memories(block)]
    return combinations(kernels, fast=FAST)


@pytest.mark.parametrize(("block", "memory"), fill_cases())
def test_fill(block, memory):
    row = cuda_counters.fill_row(block, memory)
    assert row["error"] < 3e-7
    assert row["bytes"] <= 1.002
    assert row["banks"] <= 1.001
    assert row["operations"] <= 1.26
    assert row["instructions"] <= 6.93
    # one per exchange of whole values, two in halves; at 2048 the radices differ and halves take
    # three for one of two, and what stays inside a warp takes none
    if row["exchange"] == "whole":
        assert row["barriers"] == row["exchanges"]
    else:
        assert row["barriers"] <= 2 * row["exchanges"]
    if block <= 1024:
        assert row["barriers"] <= (2 if row["exchange"] == "whole" else 4)
    # rows of 8 channels fill a sector; with less memory a thread block has fewer for long blocks
    rings = 12 * 8 / min(8, row["channels"])
    filters = 8 if row["channels"] > 2 else 16
    assert row["sectors"] <= 1.02 * (rings + filters) / 20


@pytest.mark.parametrize(
    ("case", "bytes_", "traffic", "operations"),
    [
        # pending outputs are added to where they are: their sectors count once
        (EarlyFillCase(64, 128, 1, 1, 2), 1.001, 0.83, 1.18),
        (EarlyFillCase(256, 64, 1, 1, 2), 1.001, 0.82, 1.18),
        # inputs, 16 bytes of scratch that go and come twice, spectra, pending: 52.5 for 20
        (LongFillCase(16384, 32, 1, 1, 2), 2.63, 2.72, 1.12),
    ],
    ids=str,
)
def test_other_forms_of_fills(case, bytes_, traffic, operations):
    found = cuda_counters.count_fill(case, checks=case.block < 1000, compiled=False)
    print(found)
    assert found.error < 3e-7
    assert found.coalescing == pytest.approx(1, abs=2e-3)
    assert found.distinct <= bytes_
    assert found.traffic <= traffic
    assert found.conflicts <= 1.001
    assert found.operations <= operations


@pytest.mark.parametrize(
    ("channels", "batch", "layers", "limit"),
    combinations(
        [
            (1024, 1, 2, 1.02),
            (4096, 1, 1, 1.02),
            (1000, 1, 1, 1.05),  # padded channels, too
            (1024, 8, 12, 1.12),  # two groups of rows read the taps
            (1024, 4, 16, 1.01),
        ],
        fast=[(1024, 1, 2, 1.02), (1024, 8, 12, 1.12)],
    ),
)
def test_history(channels, batch, layers, limit):
    row = cuda_counters.history_row(channels, batch, layers)
    print(row)
    assert row["sectors"] <= limit
    assert row["ideal"] == 1
    assert row["bytes"] <= 1.03
    assert row["barriers"] == 0
    assert row["warps"] >= min(512, layers * batch * channels // 8)


@pytest.mark.parametrize("capability", combinations([80, 90], fast=[80]))
@pytest.mark.parametrize(
    ("case", "traffic"),
    [
        (ApplyCase(1024, 1), 1.02),
        (ApplyCase(1024, 8, torch.bfloat16), 1.31),  # every row reads the tap
        (ApplyCase(1030, 2), 1.23),  # ragged sectors
    ],
    ids=str,
)
def test_apply_step(case, traffic, capability):
    found = cuda_counters.count_apply(case, capability, checks=True, compiled=False)
    print(found)
    assert found.error <= (1e-7 if case.dtype == torch.float32 else 2e-3)
    assert found.coalescing <= 1.05
    assert found.distinct <= 1.001
    assert found.traffic <= traffic
    assert found.instructions <= 120


@pytest.mark.slow
def test_registers_and_spills():
    """On six architectures; a minute and a half of ptxas."""
    fills = cuda_counters.fill_resources()
    for (block, memory), row in fills.items():
        config = fill_config(block, memory)
        assert row["spilled"] <= (0 if block <= 1024 else 48), (block, memory)
        warps = config.threads // 32 * (65536 // (row["registers"] * config.threads))
        assert warps >= (12 if block in (32, 512) else 16), (block, memory)
    for row in resources("early_fill.cu"):
        assert row["spilled"] <= 48
    for row in resources("long_fill.cu"):
        assert row["spilled"] <= (48 if "transform_nodes" in row["kernel"] else 0)
    for row in resources("prefill.cu"):
        assert row["registers"] <= 64
    for row in resources("history.cu"):
        assert row["spilled"] == 0
        assert row["registers"] <= (80 if "historyILi1E" in row["kernel"] else 128)
    for row in resources("apply_step.cu"):
        assert row["spilled"] == 0
        assert row["registers"] <= 40
