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


def test_a_plan_is_for_what_runs_it():
    """ "auto" takes for each level what is fastest at it; half spectra are Triton's alone."""
    h100 = DeviceInfo.named("h100")
    plans = {
        impl: make_plan(65536, 1024, layers=24, device=h100, impl=impl)
        for impl in ("auto", "cuda", "triton")
    }
    assert len(set(plans.values())) == 3
    half = make_plan(65536, 1024, device=h100, spectra_dtype=torch.bfloat16)
    triton = make_plan(65536, 1024, device=h100, spectra_dtype=torch.bfloat16, impl="triton")
    assert half == triton


@pytest.mark.parametrize("device", ["cpu", DeviceInfo.named("l4")])
def test_objectives(device):
    """Only plans for latency have slack."""
    assert make_plan(65536, 64, device=device).slack_from is None
    assert make_plan(65536, 64, device=device, objective="latency").slack_from is not None
