"""tune: what it measures, stores and prints, and that plans use it."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
import torch

from futurefill_kernels import native
from futurefill_kernels.__main__ import main
from futurefill_kernels.cli.tune import measure_cpu
from futurefill_kernels.cli.tune.measure_gpu import measure_gpu, measure_implementations
from futurefill_kernels.planning.cpu_cost import TIERS, CpuRates
from futurefill_kernels.planning.device import DeviceInfo

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
    monkeypatch.setattr(measure_cpu, "BUDGETS", dict.fromkeys(TIERS, 1 << 16))
    shipped = CpuRates.of(DeviceInfo.of("cpu"))
    assert main(["tune", "--seconds", "0.2", "--dry-run"]) == 0
    assert not list(folder.iterdir())
    assert main(["tune", "--seconds", "0.2"]) == 0
    (path,) = folder.glob("cpu-*.json")
    assert str(path) in capsys.readouterr().out
    rates = CpuRates.of(DeviceInfo.of("cpu"))
    assert [block for block, _ in rates.fills] == [4, 16, 64, 256]
    assert rates != shipped
    for _, tiers in rates.fills:
        assert len(tiers) == len(TIERS)
        assert 0 < tiers[0].single <= tiers[1].single <= tiers[2].single
    assert min(ns for _, ns in rates.steps) > 0
    monkeypatch.setenv("FUTUREFILL_TUNING", "off")
    assert CpuRates.of(DeviceInfo.of("cpu")) == shipped


@needs_kernels
def test_a_step_that_takes_no_time_is_not_stored(monkeypatch):
    monkeypatch.setattr(measure_cpu, "_fastest", lambda call, seconds: 1000.0)
    with pytest.raises(RuntimeError, match="too busy to be measured"):
        measure_cpu.measure_cpu(0.1, lambda name: contextlib.nullcontext())


def test_a_gpus_rates_are_fields_of_its_record():
    """Measured here on the CPU: the same calls time a GPU."""
    rates = measure_gpu(torch.device("cpu"), scale=1 << 16)
    found = dataclasses.replace(DeviceInfo.named("l4"), **rates)
    assert found.launch_seconds < 1e-3
    assert found.dram_bytes_per_second > 1e6
    assert found.fp32_flops > 1e6
    assert set(json.loads(json.dumps(rates))) == set(rates)


def test_whole_tokens_are_measured():
    """On the CPU; the same calls time a GPU. What cannot run is left out."""
    found = measure_implementations(
        torch.device("cpu"), ["reference", "cuda"], channels=4, layers=2, tokens=8
    )
    assert [name for name, _ in found] == ["reference"]
    assert 0 < found[0][1] < 1


def test_bad_arguments(capsys):
    assert main(["tune", "--seconds", "0"]) == 2
    assert "--seconds > 0" in capsys.readouterr().err
