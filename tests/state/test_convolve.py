"""Whole sequences through the engine's transforms, against torch.fft in float64."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import native
from futurefill_kernels.state.convolve import (
    conv_block,
    conv_range,
    fast_conv_range,
)
from tests.oracles import relative_error

pytestmark = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)

SHAPES = [  # B, D, G, P, L
    (1, 1, 1, 1, 1),
    (2, 5, 5, 7, 3),
    (2, 12, 4, 2, 50),
    (1, 6, 6, 8, 700),
    (3, 6, 2, 9, 700),
    (1, 17, 17, 100, 300),
    (2, 32, 4, 1000, 77),
    (1, 3, 1, 129, 129),
    (3, 20, 20, 513, 4000),
    (1, 33, 11, 20000, 30000),
]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("batch", "channels", "groups", "length", "taps"), SHAPES)
def test_any_range(batch, channels, groups, length, taps, threads):
    torch.manual_seed(length)
    u, h = torch.randn(batch, channels, length), torch.randn(groups, taps)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for start, stop in [
            (0, length),
            (length // 2, length // 2 + 1),
            (length // 3, length + 5),
            (max(0, length - 3), length + 2 * taps),
        ]:
            y = fast_conv_range(u, h, start, stop)
            expected = conv_range(u.double(), h.double(), start, stop)
            assert relative_error(y, expected) < 1e-6
    finally:
        torch.set_num_threads(before)


def test_outputs_beyond_the_last_tap_are_zero():
    y = fast_conv_range(torch.randn(2, 3, 10), torch.randn(3, 5), 14, 30)
    assert torch.equal(y, torch.zeros(2, 3, 16))


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16, 64, 128, 512, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_block(block, dtype):
    """All radices of the root pass, and both dtypes of the op."""
    torch.manual_seed(block)
    u, h = torch.randn(2, 19, 3 * block + 1, dtype=dtype), torch.randn(19, 2 * block + 1)
    y = torch.full((2, 19, 4 * block), float("nan"), dtype=dtype)
    torch.ops.futurefill_kernels.offline_conv(u, h.to(dtype), y, block, 5 * block, block)
    expected = conv_range(u.double(), h.double(), block, 5 * block)
    assert relative_error(y, expected) < (1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("block", [1, 2, 8, 16, 64, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("taps", [1, 3.5, 9])
def test_few_outputs_of_many_inputs(block, dtype, taps):
    """One or two blocks of outputs, which sum the products as they come."""
    torch.manual_seed(block)
    length, n = 5 * block + block // 3, int(taps * block)
    u, h = torch.randn(1, 19, length, dtype=dtype), torch.randn(19, n, dtype=dtype)
    whole = conv_range(u.double(), h.double(), 0, length + n + block)
    for start in (0, block, 3 * block + block // 2, length, length + n - 1):
        for count in (1, block // 2 + 1, block):
            y = torch.full((1, 19, count), float("nan"), dtype=dtype)
            torch.ops.futurefill_kernels.offline_conv(u, h, y, start, start + count, block)
            error = (y - whole[..., start : start + count]).abs().max() / whole.abs().max()
            assert error < (1e-6 if dtype == torch.float32 else 1e-14)


def test_few_outputs_of_grouped_filters_and_inputs_in_tiles():
    lanes = native.cpu_lanes(torch.float32)
    u, h = torch.randn(1, 3 * lanes, 1000), torch.randn(lanes, 1200)
    tiles = u.unflatten(1, (3, lanes)).transpose(2, 3).contiguous()
    expected = conv_range(u.double(), h.double(), 1000, 1100)
    for given in (u, tiles):
        y = torch.full((1, 3 * lanes, 100), float("nan"))
        torch.ops.futurefill_kernels.offline_conv(given, h, y, 1000, 1100, 128)
        assert relative_error(y, expected) < 1e-6


def test_strided_inputs():
    u, h = torch.randn(2, 40, 64).transpose(1, 2), torch.randn(40, 64).T
    expected = ff.causal_conv(u.double(), h.double())
    assert relative_error(ff.causal_conv(u, h), expected) < 1e-6
    wide = torch.randn(2, 64, 80)[..., 10:50]
    expected = ff.causal_conv(wide.double(), h.double())
    assert relative_error(ff.causal_conv(wide, h), expected) < 1e-6


def test_error_of_long_sequences():
    torch.manual_seed(0)
    u, h = torch.randn(1, 2, 262144), torch.randn(2, 262144)
    assert relative_error(ff.causal_conv(u, h), ff.causal_conv(u.double(), h.double())) < 1e-6


def test_blocks():
    assert [conv_block(n) for n in (1, 3, 64, 65, 8192, 100000)] == [1, 4, 64, 128, 8192, 8192]
    assert conv_block(1 << 20) == 1 << 16


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"block": 3}, "block to be a power of two"),
        ({"start": 9}, "0 <= start < stop"),
        ({"h": torch.zeros(3, 4)}, "a divisor of 4 filters, got 3"),
        ({"y": torch.zeros(1, 4, 3)}, "size 4 in dimension 2"),
        ({"u": torch.zeros(1, 4, 8, dtype=torch.float16)}, "float32 or float64"),
        ({"spectra": None, "made": True}, "expected spectra where they are made"),
        ({"spectra": torch.zeros(1, 1, 8, dtype=torch.float64)}, "the dtype of u"),
        ({"spectra": torch.zeros(1, 2, 8)}, "size 1 in dimension 1"),
        ({"spectra": torch.zeros(1, 1, 8)}, r"size \d+ in dimension 2"),
    ],
)
def test_the_op_checks_its_arguments(edit, message):
    arguments = {
        "u": torch.zeros(1, 4, 8), "h": torch.zeros(4, 8), "y": torch.zeros(1, 4, 4),
        "start": 4, "stop": 8, "block": 8,
    } | edit  # fmt: skip
    with pytest.raises(RuntimeError, match=message):
        torch.ops.futurefill_kernels.offline_conv(*arguments.values())
