"""Capabilities: the one record of what an implementation is."""

from __future__ import annotations

import re

import pytest
import torch

from futurefill_kernels import DeviceInfo
from futurefill_kernels.implementations.select import IMPLEMENTATIONS
from futurefill_kernels.implementations.triton_kernels.config import fill_config, long_config
from futurefill_kernels.planning.capabilities import CAPABILITIES, planned_for
from tests.house import PACKAGE


def test_every_implementation_has_its_record():
    assert {name: i.capabilities for name, i in IMPLEMENTATIONS.items()} == CAPABILITIES


@pytest.mark.parametrize(
    ("impl", "dtype", "expected"),
    [
        ("cuda", None, ("cuda",)),
        ("triton", torch.bfloat16, ("triton",)),
        ("auto", torch.float32, ("cuda", "triton", "fft")),
        ("auto", torch.bfloat16, ("triton", "fft")),
        ("triton+cuda", torch.float32, ("cuda", "triton")),
        ("cuda+fft", torch.float32, ("cuda", "fft")),
        ("cuda+fft", torch.bfloat16, ("triton", "fft")),  # CUDA keeps no such spectra
        ("reference", torch.float64, ("cuda", "triton", "fft")),
    ],
)
def test_what_a_plan_is_made_for(impl, dtype, expected):
    assert planned_for(impl, dtype) == expected


def test_tritons_passes_are_those_of_its_configurations():
    info, own = DeviceInfo.named("h100"), CAPABILITIES["triton"]
    held = [n for n in (1 << k for k in range(20)) if long_config(n, info) is not None]
    assert max(held) == own.largest_passes
    assert all(fill_config(n, info) is not None for n in (1, own.largest_fused))
    assert fill_config(2 * own.largest_fused, info) is None
    assert 2 * own.largest_fused in held


def test_cuda_fuses_what_its_kernels_hold():
    header = (PACKAGE.parent / "csrc" / "cuda" / "fill_config.h").read_text()
    (found,) = re.findall(r"constexpr int kMaxFill = (\d+);", header)
    assert CAPABILITIES["cuda"].largest_fused == int(found)
