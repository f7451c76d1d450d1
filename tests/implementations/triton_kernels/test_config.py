"""Launch configurations as functions of sizes and a device."""

from __future__ import annotations

from dataclasses import replace

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
        (1, FillConfig(1, 1, 32, 1)),
        (16, FillConfig(16, 1, 32, 1)),
        (64, FillConfig(16, 4, 32, 4)),
        (256, FillConfig(16, 16, 16, 8)),
        (512, FillConfig(32, 16, 8, 4, 128)),
        (1024, FillConfig(32, 32, 8, 8, 128)),
        (2048, FillConfig(64, 32, 4, 4)),
        (4096, FillConfig(64, 64, 4, 8)),
        (8192, None),
    ],
)
@pytest.mark.parametrize("device", ["a100", "h100", "h200", "b200", "l4", "rtx4090"])
def test_fill_configuration(device, transform, expected):
    assert fill_config(transform, DeviceInfo.named(device)) == expected


@pytest.mark.parametrize("transform", [2**k for k in range(13)])
def test_a_program_fits(transform):
    """A thread for every S C values in turn, all of the transform's values, whole warps."""
    config = fill_config(transform, DeviceInfo.named("h100"))
    assert config.values * config.threads == transform
    assert config.threads <= config.values
    assert config.threads * config.channels == 32 * config.warps


def test_a_device_with_little_shared_memory():
    small = replace(DeviceInfo.named("h100"), shared_per_block=48 << 10)
    assert fill_config(2048, small) is not None
    assert fill_config(4096, small) is None
