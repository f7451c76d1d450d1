"""What the CUDA kernels move and execute, counted on their PTX, stays within the limits."""

from __future__ import annotations

import pytest
import torch

from bench import cuda_counters
from bench.cuda_harness import fill_config, unavailable_reason

pytestmark = pytest.mark.skipif(
    unavailable_reason() is not None, reason=f"no CUDA emulation: {unavailable_reason()}"
)
KERNELS = [(block, False) for block in cuda_counters.FILL_BLOCKS]
KERNELS += [(block, True) for block in cuda_counters.FILL_BLOCKS if block >= 512]


@pytest.mark.parametrize(("block", "split"), KERNELS)
def test_fill(block, split):
    row = cuda_counters.fill_row(block, split)
    assert row["error"] < 3e-7
    assert row["bytes"] <= 1.002
    assert row["banks"] <= 1.001
    assert row["operations"] <= 1.26
    assert row["instructions"] <= 6.76
    exchanges = 0 if block <= 32 else 2 if block <= 1024 else 4
    per_exchange = (3 if block == 4096 else 2) if row["exchange"] == "halves" else 1
    assert row["barriers"] == exchanges * per_exchange
    # rows of 8 channels fill a sector; above 2048 the registers hold fewer
    assert row["sectors"] <= 1.02 * 8 / min(8, row["channels"])


@pytest.mark.parametrize(
    ("channels", "batch", "dtype", "limit"),
    [
        (1024, 1, torch.float32, 1.04),
        (1024, 8, torch.float32, 1.04),
        (4096, 1, torch.float32, 1.04),
        (1000, 1, torch.float32, 1.04),
        (1024, 1, torch.bfloat16, 1.05),
        (256, 8, torch.float32, 1.37),
    ],
)
def test_step(channels, batch, dtype, limit):
    row = cuda_counters.step_row(channels, batch, dtype=dtype)
    assert row["sectors"] <= limit
    assert row["ideal"] <= 1.01
    assert row["bytes"] <= 1.01
    assert row["barriers"] == 1
    assert row["blocks"] >= 120


@pytest.mark.slow
def test_registers_and_spills():
    """On six architectures; a minute and a half of ptxas."""
    fills = cuda_counters.fill_resources()
    for (block, split), row in fills.items():
        config = fill_config(block, split)
        assert row["spilled"] <= (0 if block <= 1024 else 16), (block, split)
        warps = config.threads // 32 * (65536 // (row["registers"] * config.threads))
        assert warps >= (12 if block in (32, 512) else 16), (block, split)
    for row in cuda_counters.resources("short_range_step.cu"):
        assert row["spilled"] == 0
        if "Li1E" in row["kernel"]:
            assert row["registers"] <= 40
