"""make_plan: what it refuses, and what it hands to the models."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import DeviceInfo, make_plan


def test_planning_is_pure_and_checked():
    h100 = DeviceInfo.named("h100")
    assert make_plan(4096, 64, device=h100) == make_plan(4096, 64, device=h100)
    assert make_plan(1, 1).levels == ()
    with pytest.raises(ValueError, match="length >= 1, got 0"):
        make_plan(0, 8)
    with pytest.raises(ValueError, match="groups to divide channels = 8, got 3"):
        make_plan(8, 8, groups=3)
    with pytest.raises(ValueError, match="objective"):
        make_plan(8, 8, objective="speed")
    with pytest.raises(TypeError, match="dtype"):
        make_plan(8, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="unknown device name 'h300'"):
        DeviceInfo.named("h300")


def test_an_implementation_is_planned_for_what_it_fuses():
    """ "auto" chooses none: every implementation does the largest of its blocks in one launch."""
    h100 = DeviceInfo.named("h100")
    plans = {impl: make_plan(65536, 1024, device=h100, impl=impl) for impl in ("auto", "cuda")}
    assert 8192 in plans["cuda"].block_sizes
    assert plans["auto"] == make_plan(65536, 1024, device=h100, impl="triton")
    assert 8192 not in plans["auto"].block_sizes


@pytest.mark.parametrize("device", ["cpu", DeviceInfo.named("l4")])
def test_objectives(device):
    """Only plans for latency have slack."""
    assert make_plan(65536, 64, device=device).slack_from is None
    assert make_plan(65536, 64, device=device, objective="latency").slack_from is not None
