"""Which implementation runs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from futurefill_kernels import DeviceInfo
from futurefill_kernels.implementations import select
from futurefill_kernels.planning.gpu_times import GpuTimes, KernelTimes, Time


def test_auto_follows_the_order(monkeypatch):
    times = GpuTimes(
        1024, 4e12, 1e-7,
        tuple(
            (name, KernelTimes(1e-5, (Time(32, 24, 1, s),), (Time(32, 24, 1, s),), ()))
            for name, s in (("cuda", 2e-3), ("triton", 1e-3))
        ),
    )  # fmt: skip
    info = dataclasses.replace(DeviceInfo.named("h100"), times=times)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(select.DeviceInfo, "of", classmethod(lambda cls, device: info))
    for module in (select.cuda, select.triton):
        monkeypatch.setattr(module, "cannot_run", lambda device, dtype, plan: [])
    device = torch.device("cuda", 0)
    assert select.resolve("auto", device, torch.float32).capabilities.name == "triton"
    assert list(select.cannot_run(device, torch.float32)) == [
        "triton", "cuda", "cpu", "reference"
    ]  # fmt: skip
    assert select.resolve("cuda", device, torch.float32).capabilities.name == "cuda"
    assert select.on_this_gpu(device, torch.float32) == ("cuda", "triton")
    assert select.on_this_gpu(device, torch.float32, spectra_dtype=torch.bfloat16) == ("triton",)


def test_a_plan_that_the_chosen_one_cannot_run_is_refused(monkeypatch):
    monkeypatch.setattr(select.reference, "cannot_run", lambda *arguments: ["is asleep", "is old"])
    with pytest.raises(RuntimeError, match="impl='reference' cannot run on cpu: is asleep; is old"):
        select.check_plan(select.reference, torch.device("cpu"), torch.float32, None)
    with pytest.raises(ValueError, match="unknown impl 'fast'; expected one of 'auto', 'cpu'"):
        select.resolve("fast", torch.device("cpu"), torch.float32)
