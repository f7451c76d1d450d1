"""Launch configurations as functions of sizes and a device."""

from __future__ import annotations

import pytest

from futurefill_kernels import DeviceInfo
from futurefill_kernels.implementations.triton_kernels.config import (
    FillConfig,
    StepConfig,
    fill_config,
    step_config,
)


@pytest.mark.parametrize(
    ("device", "block", "channels", "rows", "last", "expected"),
    [
        ("a100", 64, 1024, 1, False, StepConfig(8, 1, 64, 1)),  # 128 programs
        ("a100", 64, 1024, 1, True, StepConfig(64, 1, 64, 8)),  # 16 count the position
        ("a100", 64, 1024, 8, True, StepConfig(8, 4, 32)),  # 256 programs for 108 SMs
        ("h100", 64, 1024, 4, False, StepConfig(8, 2, 64)),  # 4 rows together: 128 < 132 SMs
        ("h100", 64, 1024, 8, False, StepConfig(8, 4, 32)),
        ("h100", 16, 256, 8, True, StepConfig(8, 1, 16)),
        ("h100", 16, 256, 64, True, StepConfig(8, 4, 16)),
        ("l4", 16, 768, 3, False, StepConfig(8, 4, 16)),
        ("l4", 16, 64, 3, False, StepConfig(8, 1, 16)),
        ("b200", 1, 4096, 2, True, StepConfig(8, 2, 1)),
        ("b200", 96, 1, 1, True, StepConfig(64, 1, 64, 8)),
        ("h200", 24, 7, 1, True, StepConfig(64, 1, 32, 8)),
        ("h200", 5, 512, 1, True, StepConfig(64, 1, 8, 4)),
        ("h200", 5, 512, 1, False, StepConfig(16, 1, 8, 1)),
        ("h100", 2, 512, 1, False, StepConfig(64, 1, 2, 1)),
    ],
)
def test_step_configuration(device, block, channels, rows, last, expected):
    assert step_config(block, channels, rows, DeviceInfo.named(device), last) == expected


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (1, FillConfig(1, 32, 1, 128)),
        (8, FillConfig(1, 32, 1, 128)),
        (16, FillConfig(1, 16, 1, 128)),
        (32, FillConfig(1, 8, 1, 128)),
        (64, FillConfig(1, 8, 2, 128)),
        (128, FillConfig(1, 8, 4, 128)),
        (256, FillConfig(1, 8, 8, 128)),
        (512, FillConfig(2, 8, 8, 160)),
        (1024, FillConfig(4, 8, 8, 200)),
        (2048, FillConfig(8, 8, 8, 255)),
        (4096, None),
    ],
)
@pytest.mark.parametrize("device", ["a100", "h100", "h200", "b200", "l4", "rtx4090"])
def test_fill_configuration(device, transform, expected):
    assert fill_config(transform, DeviceInfo.named(device)) == expected


def test_ragged_blocks_have_a_lower_limit():
    info = DeviceInfo.named("h100")
    assert fill_config(256, info, ragged=True) == fill_config(256, info)
    assert fill_config(1024, info, ragged=True) == FillConfig(4, 8, 8, 255)
    assert fill_config(2048, info, ragged=True) is None
