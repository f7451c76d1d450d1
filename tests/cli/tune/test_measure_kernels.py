"""Times of kernels, here on the CPU: the same calls time a GPU, whose graphs they replay."""

from __future__ import annotations

import dataclasses
import json
import math

import torch

from futurefill_kernels import DeviceInfo
from futurefill_kernels.cli.tune import measure_kernels
from futurefill_kernels.planning.gpu_cost import (
    FFT_FILL_LAUNCHES,
    fft_fills,
    fill_lines,
    made_line,
    step_line,
)
from futurefill_kernels.planning.gpu_times import GpuTimes
from futurefill_kernels.planning.prompt_length import ODD_FACTORS

SIZES = measure_kernels.Sizes(
    channels=6,
    steps=((16, 2, 1), (8, 1, 2)),
    fills=((16, 2, 1), (32, 1, 2), (16, 1, 1)),
    prompts=((20, 2, 1),),
    made=((64, 2, 1), (32, 1, 3)),
    fft_points=128,
)
CPU = torch.device("cpu")


def test_the_times_are_what_plans_read():
    """What cannot run is left out."""
    found = measure_kernels.measure_kernels(CPU, ["reference", "cuda"], 60, SIZES)
    times = GpuTimes.parse(json.loads(json.dumps(found)))
    (name, kernels), (fft, _) = times.kernels
    assert (name, fft) == ("reference", "fft")
    assert kernels.step_launch_seconds > 0
    for kind in ("steps", "fills", "prompts"):
        assert [time[:3] for time in getattr(kernels, kind)] == list(getattr(SIZES, kind))
    assert [time[:3] for time in times.made] == list(SIZES.made)
    # a busy machine's clock may say anything, but a line goes through it
    line = made_line(times)
    assert min(time.seconds for time in times.made) > 0
    assert min(line[:2]) >= 0
    assert line.latency + line.slope > 0
    assert math.isfinite(line.error)
    assert set(fill_lines(times, name)) == set(fill_lines(times, fft)) == {16, 32}
    assert fft_fills(times) == times.of(fft).fills
    assert step_line(times, name).latency > 0
    assert times.ffts[0] == (1, 1.0)
    assert {odd for odd, _ in times.ffts} == set(ODD_FACTORS)
    assert all(cost > 0 for _, cost in times.ffts)
    info = dataclasses.replace(DeviceInfo.named("l4"), times=times)
    assert hash(info) == hash(dataclasses.replace(info))


def test_without_time_one_of_each_kind_is_measured():
    found = measure_kernels.measure_kernels(CPU, ["reference"], 0, SIZES)
    kernels = found["implementations"]["reference"]
    assert [len(kernels[kind]) for kind in ("steps", "fills", "prompts")] == [1, 1, 1]
    assert len(found["made"]) == 1


def test_levels_are_timed_that_make_their_spectra(monkeypatch):
    levels, reference = [], measure_kernels.IMPLEMENTATIONS["reference"]
    fill = reference.fill
    monkeypatch.setattr(
        reference,
        "fill",
        lambda state, level, *rest: levels.append(level) or fill(state, level, *rest),
    )
    sizes = dataclasses.replace(SIZES, steps=(), fills=(), prompts=())
    found = measure_kernels.measure_kernels(CPU, ["reference"], 60, sizes)
    made = [level for level in levels if level.made]
    assert {level.block for level in made} == {64, 32}
    assert all(seconds > 0 for *_, seconds in found["made"])
    none = measure_kernels.measure_kernels(CPU, ["cuda"], 60, sizes)
    assert none["made"] == []


def test_forms_of_fills_are_measured_beside_their_implementation(monkeypatch):
    """Only the fills that differ; what plans read takes them for the rest from it."""
    monkeypatch.setattr(measure_kernels, "VARIANTS", {"form": "reference"})
    monkeypatch.setattr(measure_kernels, "TILES", {16: 8})
    reference = measure_kernels.IMPLEMENTATIONS["reference"]
    monkeypatch.setattr(measure_kernels, "_implementation", lambda name: reference)
    found = measure_kernels.measure_kernels(CPU, ["reference"], 60, SIZES)["implementations"]
    assert [time[:3] for time in found["form"]["fills"]] == [[16, 2, 1], [16, 1, 1]]
    assert found["form"]["steps"] == found["form"]["prompts"] == []
    assert [time[:3] for time in found["fft"]["fills"]] == list(map(list, SIZES.fills))
    assert found["fft"]["steps"] == found["fft"]["prompts"] == []


def test_a_fill_and_a_step_have_their_own_time_of_the_host(monkeypatch):
    """Of the first a call of torch is one of many, of the second a history is one more."""
    calls = []
    monkeypatch.setattr(
        measure_kernels, "_host_seconds", lambda device, call: calls.append(call) or 9
    )
    sizes = dataclasses.replace(SIZES, steps=(), fills=(), prompts=(), made=())
    found = measure_kernels.measure_kernels(CPU, ["reference"], 60, sizes)["implementations"]
    assert len(calls) == 4
    assert found["reference"]["launch_us"] == 9e6
    assert found["reference"]["step_launch_us"] == 9e6 / 8
    assert found["fft"]["launch_us"] == 9e6 / FFT_FILL_LAUNCHES
