"""tune: what it measures, stores and prints, and that plans use it."""

from __future__ import annotations

import dataclasses

import pytest

from futurefill_kernels import native
from futurefill_kernels.__main__ import main
from futurefill_kernels.cli.line_errors import largest_errors
from futurefill_kernels.cli.tune import command
from futurefill_kernels.planning import measure_cpu
from futurefill_kernels.planning.cpu_cost import TIERS
from futurefill_kernels.planning.device import DeviceInfo
from futurefill_kernels.planning.gpu_times import KernelTimes, Time, shipped
from futurefill_kernels.planning.this_cpu import rates_of

needs_kernels = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None, reason="the CPU kernels are not built"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FUTUREFILL_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("FUTUREFILL_TUNING", "strict")
    return tmp_path


@needs_kernels
def test_tune_measures_and_stores_the_rates_that_plans_use(folder, monkeypatch, capsys):
    monkeypatch.setattr(measure_cpu, "FILL_BLOCKS", (4, 16, 64, 256))
    monkeypatch.setattr(measure_cpu, "budgets", lambda last_level: dict.fromkeys(TIERS, 1 << 16))
    shipped = rates_of(DeviceInfo.of("cpu"), probed=False)
    assert main(["tune", "--seconds", "0.2", "--dry-run"]) == 0
    assert not list(folder.iterdir())
    assert main(["tune", "--seconds", "0.2"]) == 0
    (path,) = folder.glob("cpu-*.json")
    assert str(path) in capsys.readouterr().out
    rates = rates_of(DeviceInfo.of("cpu"), probed=False)
    assert [block for block, _ in rates.fills] == [4, 16, 64, 256]
    assert rates != shipped
    for _, tiers in rates.fills:
        assert len(tiers) == len(TIERS)
        assert 0 < tiers[0].single <= tiers[1].single <= tiers[2].single
    assert min(ns for _, ns in rates.steps) > 0
    monkeypatch.setenv("FUTUREFILL_TUNING", "off")
    assert rates_of(DeviceInfo.of("cpu"), probed=False) == shipped


def test_what_is_printed_of_a_gpu(capsys):
    """Every line with its error, and what the host takes for fills and for steps."""
    times = dataclasses.replace(
        shipped()["h200"], made=(Time(8192, 1, 1, 1e-3), Time(32768, 1, 1, 3e-3))
    )
    (name, kernels), *others = times.kernels
    timed = dataclasses.replace(kernels, launch_seconds=3e-6, step_launch_seconds=5e-6)
    fft = ("fft", KernelTimes(2e-6, (), (Time(64, 1, 1, 1e-4),), ()))
    command._print_gpu(dataclasses.replace(times, kernels=((name, timed), *others, fft)))
    lines = capsys.readouterr().out.splitlines()
    assert "reads 4.2e+12 bytes/s, a node 0.75 us" in lines
    host = "cuda: the host takes 3.0 us for a launch of a fill, 5.0 us for a history or a step"
    assert host in lines
    assert "fft: the host takes 2.0 us for a launch of a fill" in lines
    fills = {block for block, *_ in kernels.fills}
    own = lines[lines.index(host) + 1 :][: 1 + len(fills)]
    assert own[0].startswith("  steps: ")
    assert [int(line.split()[2].rstrip(":")) for line in own[1:]] == sorted(fills)
    assert all("; off by up to " in line for line in own)
    assert "  prompt of 131072 x 1: 12428 us" in lines
    assert lines[-2].startswith("spectra made: ")
    errors = ", ".join(f"{k} {100 * x:.0f}%" for k, x in largest_errors(times).items())
    assert lines[-1] == f"the lines are off by up to: {errors}"


def test_bad_arguments(capsys):
    assert main(["tune", "--seconds", "0"]) == 2
    assert "--seconds > 0" in capsys.readouterr().err
