"""Which implementation runs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from futurefill_kernels import DeviceInfo, Plan
from futurefill_kernels.implementations import select
from futurefill_kernels.implementations.mixed import Mixed
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


def test_names_of_several(monkeypatch):
    """Joined ones choose among themselves, exact ones are what they say, and neither falls back."""
    info = DeviceInfo.named("h200")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(select.DeviceInfo, "of", classmethod(lambda cls, device: info))
    device, plan = torch.device("cuda", 0), Plan(64, (16, 32))
    asked = (device, torch.float32, plan)
    exact = "triton;cuda;triton,cuda_early"
    mixed = Mixed(select.triton, select.cuda, (select.triton, select.cuda_early))
    for module in (select.cuda, select.triton, select.cuda_early):
        monkeypatch.setattr(module, "cannot_run", lambda device, dtype, plan: [])
    assert select.resolve("triton+cuda", *asked) is select.cuda  # no slower, and the first
    assert select.resolve("triton+cuda_early", *asked) is select.triton
    assert select.resolve(exact, *asked) == mixed
    long = dataclasses.replace(mixed, longer=((512, select.triton),))
    assert select.resolve("triton;cuda,512:triton;triton,cuda_early", *asked) == long
    assert select.candidates("triton+cuda", *asked) == ("cuda", "triton")
    assert select.candidates("triton+cuda_early", *asked) == ("triton",)
    assert select.candidates("auto", *asked) == ("cuda", "triton", "fft")
    assert select.candidates("triton+fft", *asked) == ("triton", "fft")
    assert select.candidates("cuda", *asked) == select.candidates(exact, *asked) == ()
    with pytest.raises(RuntimeError, match=r"'triton;cuda;triton' .*: fills 1 levels, the plan"):
        select.resolve("triton;cuda;triton", *asked)
    with pytest.raises(RuntimeError, match="keeps no state in float16"):
        select.resolve(exact, *asked, ring_dtype=torch.float16)
    monkeypatch.setattr(select.triton, "cannot_run", lambda device, dtype, plan: ["is asleep"])
    for name in ("cuda+triton", exact):
        with pytest.raises(RuntimeError, match="is asleep"):
            select.resolve(name, *asked)
    for name in (
        "cuda+fast",
        "cuda;triton",
        "cuda;triton;fast",
        "cuda;cuda,x:cuda;cuda",
        "cuda_early",
    ):
        with pytest.raises(ValueError, match=r"unknown impl '.*'; expected one of 'auto', 'cpu'"):
            select.resolve(name, *asked)


def test_a_plan_that_the_chosen_one_cannot_run_is_refused(monkeypatch):
    monkeypatch.setattr(select.reference, "cannot_run", lambda *arguments: ["is asleep", "is old"])
    with pytest.raises(RuntimeError, match="impl='reference' cannot run on cpu: is asleep; is old"):
        select.check_plan(select.reference, torch.device("cpu"), torch.float32, None)
    with pytest.raises(ValueError, match="unknown impl 'fast'; expected one of 'auto', 'cpu'"):
        select.resolve("fast", torch.device("cpu"), torch.float32)
