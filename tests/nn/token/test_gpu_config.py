"""Sizes of the fused token's launches."""

from __future__ import annotations

import pytest

from futurefill_kernels.nn.token.gpu_config import (
    ProductConfig,
    product_config,
    round_up,
    row_warps,
)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        # what the timed prototype had: an STU model of 1024 channels in bfloat16
        ((1024, 1024, 2), ProductConfig(8, 1024, 4)),
        ((12288, 1024, 2, 2), ProductConfig(16, 1024, 8)),
        ((1024, 12288, 2), ProductConfig(4, 1024, 4)),
        ((200064, 1024, 2), ProductConfig(32, 1024, 8)),
        # three projections of such a model, and the same in float32
        ((1024, 1024, 2, 3), ProductConfig(4, 1024, 4)),
        ((1024, 1024, 4, 3), ProductConfig(2, 1024, 4)),
        # the shipped model: 192 channels in float32
        ((192, 192, 4, 3), ProductConfig(1, 256, 4)),
        ((512, 192, 4, 2), ProductConfig(4, 256, 4)),
        ((192, 512, 4), ProductConfig(1, 512, 4)),
        ((256, 192, 4), ProductConfig(2, 256, 4)),
        ((1, 1, 4), ProductConfig(1, 1, 4)),
    ],
)
def test_products(sizes, expected):
    assert product_config(*sizes) == expected


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("sections", [1, 2, 3])
def test_weights_fit_in_registers(itemsize, sections):
    for outputs in (1, 33, 1000, 8192, 200064):
        for inputs in (1, 33, 1000, 4096, 12289):
            config = product_config(outputs, inputs, itemsize, sections)
            held = round_up(sections) * config.rows * config.tile * itemsize
            assert held <= max(64 * 4 * 32 * config.warps, round_up(sections) * 1024 * itemsize)
            assert config.rows == 1 or -(-outputs // config.rows) >= 128


def test_warps_of_a_row():
    assert [row_warps(n) for n in (1, 512, 1024, 1025, 8192, 100_000)] == [1, 1, 2, 4, 16, 16]
