"""make_plan: what it refuses, and what it hands to the models."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import DeviceInfo, make_plan
from futurefill_kernels.planning import cpu_plan, gpu_plan


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


@pytest.mark.parametrize("length", [4096, None])
@pytest.mark.parametrize("device", [DeviceInfo.of("cpu"), DeviceInfo.named("h100")])
def test_dtypes_reach_the_models(device, length, monkeypatch):
    asked = []

    def note(cheapest_plan):
        return lambda workload, *rest: asked.append(workload) or cheapest_plan(workload, *rest)

    for planner in (cpu_plan, gpu_plan):
        monkeypatch.setattr(planner, "cheapest_plan", note(planner.cheapest_plan))
    half, wide, double = torch.bfloat16, torch.float32, torch.float64
    for dtype, state, filters, expected in (
        (wide, None, None, (4, 4, 4, 4)),
        (half, None, None, (4, 4, 4, 4)),
        (wide, half, None, (4, 2, 4, 4)),
        (half, torch.float16, half, (4, 2, 2, 4)),
        (wide, double, None, (8, 8, 8, 8)),
        (double, None, half, (8, 8, 2, 8)),
    ):
        make_plan(
            length, 64, filter_length=4096, dtype=dtype, device=device, state_dtype=state,
            filters_dtype=filters,
        )  # fmt: skip
        w = asked.pop()
        found = w.itemsize, w.ring_itemsize, w.filters_itemsize, w.spectra_itemsize
        assert found == expected
    assert not asked


@pytest.mark.parametrize("device", ["cpu", DeviceInfo.named("l4")])
def test_objectives(device):
    """Only plans for latency have slack."""
    assert make_plan(65536, 64, device=device).slack_from is None
    assert make_plan(65536, 64, device=device, objective="latency").slack_from is not None
