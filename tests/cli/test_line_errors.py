"""How far off the lines of a GPU's model are: what plan and tune print."""

from __future__ import annotations

import dataclasses

import pytest

from futurefill_kernels import DeviceInfo
from futurefill_kernels.__main__ import main
from futurefill_kernels.cli.line_errors import errors_text, largest_errors
from futurefill_kernels.planning.gpu_times import GpuTimes, KernelTimes, Time, shipped


def test_they_are_the_largest_of_each_kind():
    """Two times of a block: the line has 1.2, of 1 and 3. A step, which is on its line."""
    far = (Time(64, 1, 1, 1e-4), Time(64, 1, 1, 3e-4))
    kernels = (
        ("cuda", KernelTimes(1e-6, (Time(32, 24, 1, 1e-4),), (Time(64, 1, 1, 1e-4),), ())),
        ("triton", KernelTimes(1e-6, (), far, ())),
    )
    times = GpuTimes(1024, 4e12, 1e-7, kernels)
    assert largest_errors(times) == pytest.approx({"steps": 0, "fills": 0.6}, abs=1e-3)
    plain = dataclasses.replace(times, kernels=kernels[:1], fft_fills=far)
    assert largest_errors(plain)["fills"] == pytest.approx(0.6, rel=0.01)
    made = dataclasses.replace(plain, made=far)
    assert largest_errors(made)["spectra made"] == pytest.approx(0.6, rel=0.01)


def test_a_text_says_whose_times_they_are():
    h200, l4 = DeviceInfo.named("h200"), DeviceInfo.named("l4")
    off = ", ".join(f"{k} {100 * x:.0f}%" for k, x in largest_errors(shipped()["h200"]).items())
    assert errors_text(h200) == (
        f"modelled by lines through the shipped times of an H200; off these by up to: {off}"
    )
    assert "an H200's times, as much slower or faster as published rates are" in errors_text(l4)
    own = dataclasses.replace(l4, times=shipped()["h200"])
    assert "lines through this device's times;" in errors_text(own)


def test_plan_prints_it_for_gpus(capsys):
    sizes = ["--length", "2048", "--channels", "64"]
    assert main(["plan", *sizes, "--device", "l4"]) == 0
    assert capsys.readouterr().out.endswith(errors_text(DeviceInfo.named("l4")) + "\n")
    assert main(["plan", *sizes]) == 0
    assert "modelled" not in capsys.readouterr().out
