"""Rates: measured, stored, found again under each mode, and used by plans."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from futurefill_kernels import native
from futurefill_kernels.__main__ import main
from futurefill_kernels.cli.tune import command
from futurefill_kernels.planning import rates as stored
from futurefill_kernels.planning.cpu_cost import (
    TIERS,
    CpuRates,
    Fill,
    fill_ns,
    level_ns,
    short_range_ns,
)
from futurefill_kernels.planning.device import DeviceInfo, processor
from futurefill_kernels.planning.search import Stream

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
    monkeypatch.setattr(command, "FILL_BLOCKS", (4, 16, 64, 256))
    monkeypatch.setattr(command, "BUDGETS", dict.fromkeys(TIERS, 1 << 16))
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
    assert dict(rates.steps)[256] > dict(rates.steps)[4] > 0
    monkeypatch.setenv("FUTUREFILL_TUNING", "off")
    assert CpuRates.of(DeviceInfo.of("cpu")) == shipped


def test_modes(folder, monkeypatch):
    stored.save("cuda", "NVIDIA A", 100, {"launch_seconds": 1.0})
    stored.save("cuda", "NVIDIA B", 140, {"launch_seconds": 2.0})
    stored.save("cpu", "C", 16, {"launch_seconds": 3.0})
    assert stored.load("cuda", "nvidia a", 1) == {"launch_seconds": 1.0}
    assert stored.load("cuda", "NVIDIA C", 139) is None
    monkeypatch.setenv("FUTUREFILL_TUNING", "nearest")
    assert stored.load("cuda", "NVIDIA C", 139) == {"launch_seconds": 2.0}
    assert stored.load("cuda", "NVIDIA C", 101) == {"launch_seconds": 1.0}
    monkeypatch.setenv("FUTUREFILL_TUNING", "off")
    assert stored.load("cuda", "NVIDIA A", 100) is None
    monkeypatch.setenv("FUTUREFILL_TUNING", "loose")
    with pytest.raises(ValueError, match="FUTUREFILL_TUNING"):
        stored.load("cuda", "NVIDIA A", 100)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99, "rates": {}}', '{"format": 1}'])
def test_a_file_that_holds_no_rates_is_named(folder, text):
    path = stored.path_of("cpu", "X 1")
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cpu-x-1\.json does not hold rates"):
        stored.load("cpu", "X 1", 8)


def test_a_gpus_rates_are_fields_of_its_record():
    """Measured here on the CPU: the same calls time a GPU."""
    rates = command.measure_gpu(torch.device("cpu"), scale=1 << 16)
    found = dataclasses.replace(DeviceInfo.named("l4"), **rates)
    assert found.launch_seconds < 1e-3
    assert found.dram_bytes_per_second > 1e6
    assert found.fp32_flops > 1e6
    assert set(json.loads(json.dumps(rates))) == set(rates)


def test_costs_follow_the_rates():
    info = dataclasses.replace(DeviceInfo.of("cpu"), l2_bytes=32 << 20)
    rates = {
        "steps": [[4, 1.0], [16, 2.0], [64, 6.0]],
        "fills": [[16, [[8, 0, 2], [16, 0, 4], [32, 0, 8]]], [64, [[80, 8, 8]] * 3]],
        "firing_ns": 150,
        "threads": [],
        "handover_ns": 0,
        "l2_bytes": 1 << 20,
    }
    r = CpuRates.from_dict(rates, info)
    small, large = (Stream(4096, 4096, d, 1, 1, d) for d in (16, 1 << 20))
    assert short_range_ns(small, r, 16) == 2.0
    assert 2.0 < short_range_ns(small, r, 32) < 6.0
    assert short_range_ns(small, r, 1024) > 20
    # a firing of one product every 32 tokens, data in the second-level cache or in memory
    assert level_ns(small, r, 16, 2) == pytest.approx((8 + 150 / 16) / 32)
    assert level_ns(large, r, 16, 2) == pytest.approx(1.0, rel=0.01)
    assert level_ns(large, r, 64, 4) == pytest.approx((80 * 3 + 8 * 3 + 8 * 2) / 256, rel=0.01)


@pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None, reason="no engine that spreads work"
)
def test_threads_share_the_work_where_there_is_enough():
    rates = CpuRates(
        ((16, 2.0),), ((16, (Fill(8, 0, 2),) * 3),), 0.0,
        ((2, (0.5, 0.5, 0.6, 0.8)), (4, (0.3, 0.3, 0.5, 0.8))), 100.0, 1 << 20, 32 << 20, 8,
    )  # fmt: skip
    one = dataclasses.replace(rates, available=1)
    few, many = (Stream(4096, 4096, d, 1, 1, d) for d in (16, 1 << 16))
    assert short_range_ns(few, rates, 16) == short_range_ns(few, one, 16) == 2.0
    assert fill_ns(few, rates, 16, 2, 1, False) == fill_ns(few, one, 16, 2, 1, False)
    # four threads measured, eight gain as much again
    assert rates.factor(0, 4) == pytest.approx(0.3)
    assert rates.factor(0, 8) == pytest.approx(0.18)
    assert short_range_ns(many, rates, 16) == pytest.approx(2 * 0.18 + 100 / (1 << 16))
    assert fill_ns(many, one, 16, 2, 1, False) == 8
    # 600 channels of 16 taps are enough for two threads of the engine
    two, some = dataclasses.replace(rates, available=2), Stream(4096, 4096, 600, 1, 1, 600)
    assert short_range_ns(some, two, 16) == pytest.approx(2 * 0.5 + 100 / 600)
    # data from caches and memory, where more threads bring less
    assert rates.factor(2, 8) == pytest.approx(0.5 * 0.5 / 0.6)
    assert 8 * rates.factor(1, 8) < fill_ns(many, rates, 16, 2, 1, False) < 8 * rates.factor(3, 8)


def test_bad_arguments(capsys):
    assert main(["tune", "--seconds", "0"]) == 2
    assert "--seconds > 0" in capsys.readouterr().err
    assert processor()
