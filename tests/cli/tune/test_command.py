"""tune: what it measures, stores and prints, and that plans use it."""

from __future__ import annotations

import pytest

from futurefill_kernels import native
from futurefill_kernels.__main__ import main
from futurefill_kernels.planning import measure_cpu
from futurefill_kernels.planning.cpu_cost import TIERS
from futurefill_kernels.planning.device import DeviceInfo
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


def test_bad_arguments(capsys):
    assert main(["tune", "--seconds", "0"]) == 2
    assert "--seconds > 0" in capsys.readouterr().err
