"""Capabilities: the one record of what an implementation is."""

from __future__ import annotations

import re

import pytest

from futurefill_kernels.implementations.select import IMPLEMENTATIONS
from futurefill_kernels.planning.capabilities import CAPABILITIES, largest_fused, on_gpus
from tests.house import PACKAGE


def test_every_implementation_has_its_record():
    assert {name: i.capabilities for name, i in IMPLEMENTATIONS.items()} == CAPABILITIES


@pytest.mark.parametrize(
    ("impl", "expected"), [("cuda", 8192), ("triton", 4096), ("auto", 4096), ("reference", 4096)]
)
def test_largest_fused_block(impl, expected):
    assert largest_fused(impl) == expected


def test_cuda_fuses_what_its_kernels_hold():
    header = (PACKAGE.parent / "csrc" / "cuda" / "fill_config.h").read_text()
    (found,) = re.findall(r"constexpr int kMaxFillBlock = (\d+);", header)
    assert CAPABILITIES["cuda"].largest_fused == int(found)


def test_only_implementations_for_gpus_are_counted():
    assert {n for n, c in CAPABILITIES.items() if c.counted is not None} == set(on_gpus())
