"""Launch configurations as functions of sizes and a device."""

from __future__ import annotations

import pytest

from futurefill_kernels import DeviceInfo
from futurefill_kernels.implementations.triton_kernels.config import (
    ONE_ROW,
    SEVERAL_ROWS,
    FillConfig,
    fill_config,
    history_config,
)


@pytest.mark.parametrize(
    ("device", "layers", "lanes", "rows", "expected"),
    [
        ("h100", 24, 1024, 1, ONE_ROW),
        ("h100", 24, 1024, 2, SEVERAL_ROWS),  # 768 programs for 132 SMs
        ("h100", 16, 1024, 4, ONE_ROW),  # 512
        ("a100", 16, 1024, 4, SEVERAL_ROWS),
        ("h100", 24, 256, 8, ONE_ROW),
        ("h100", 24, 256, 64, SEVERAL_ROWS),
        ("l4", 1, 1024, 8, ONE_ROW),
        ("l4", 1, 1024, 32, SEVERAL_ROWS),
    ],
)
def test_history_configuration(device, layers, lanes, rows, expected):
    assert history_config(layers, lanes, rows, DeviceInfo.named(device)) == expected


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
