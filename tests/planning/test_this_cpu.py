"""Whose rates plans go by: tuned, probed or shipped; a probe runs once, and where it may not."""

from __future__ import annotations

import json
import threading

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import native
from futurefill_kernels.planning import this_cpu
from futurefill_kernels.planning.cpu_cost import TIERS, CpuRates, shipped_rates
from futurefill_kernels.planning.device import DeviceInfo
from futurefill_kernels.planning.probe import probe, scales
from futurefill_kernels.planning.processor import processor_name
from futurefill_kernels.planning.rates import rates_path, store_rates

pytestmark = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None, reason="the CPU kernels are not built"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FUTUREFILL_CACHE_DIR", str(tmp_path / "rates"))
    monkeypatch.setenv("FUTUREFILL_TUNING", "strict")
    return tmp_path / "rates"


@pytest.fixture
def probes(monkeypatch):
    """A probe that takes no time: one more ns of a firing in every call."""
    calls = []

    def counted(shipped):
        calls.append(shipped)
        return {**shipped, "firing_ns": float(len(calls)), "last_level_bytes": 1 << 20}

    monkeypatch.setattr(this_cpu, "probe", counted)
    return calls


def source(measure=False):
    return this_cpu.find_rates(measure).source


def test_the_first_plan_probes_and_stores(folder, probes):
    assert "until the first plan" in source()
    assert not probes
    ff.make_plan(4096, 16)
    ff.FutureFillCache(torch.ones(8, 64), 1, 64)
    assert len(probes) == 1
    (path,) = folder.iterdir()
    assert path == rates_path("probe-cpu", processor_name())
    assert source() == f"measured by a probe ({path})"
    rates = this_cpu.rates_of(DeviceInfo.of("cpu"), probed=True)
    assert rates.firing_ns == 1
    assert rates.last_level_bytes == 1 << 20


def test_the_next_process_reads_what_is_stored(folder, probes, monkeypatch):
    ff.make_plan(4096, 16)
    monkeypatch.setattr(this_cpu, "_PROBED", {})
    ff.make_plan(4096, 16)
    assert len(probes) == 1
    assert this_cpu.find_rates(False).rates["firing_ns"] == 1


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}'])
def test_what_another_version_stored_is_measured_again(folder, probes, text):
    folder.mkdir()
    path = rates_path("probe-cpu", processor_name())
    path.write_text(text)
    ff.make_plan(4096, 16)
    assert json.loads(path.read_text())["rates"]["firing_ns"] == 1


def test_a_process_stays_with_its_rates(folder, probes):
    ff.make_plan(4096, 16)
    (path,) = folder.iterdir()
    path.unlink()
    assert this_cpu.find_rates(True).rates["firing_ns"] == 1
    assert len(probes) == 1


def test_threads_wait_for_one_probe(folder, probes):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(this_cpu.find_rates(True))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(probes) == 1
    assert all(f is found[0] for f in found)


def test_a_folder_that_cannot_be_written(folder, probes):
    folder.write_text("a file where the folder should be")
    ff.make_plan(4096, 16)
    ff.make_plan(4096, 16)
    assert len(probes) == 1
    assert "in this process" in source()


def test_a_record_of_a_device_is_not_measured(folder, probes):
    record = DeviceInfo.of("cpu")
    shipped = CpuRates.from_dict(shipped_rates(native.cpu_isa()), record)
    assert this_cpu.rates_of(record, probed=False) == shipped
    before = ff.make_plan(4096, 16, device=record)
    assert not probes
    ff.make_plan(4096, 16)
    assert ff.make_plan(4096, 16, device=record) == before
    assert len(probes) == 1


def test_tuned_rates_come_first(folder, probes):
    rates = {**shipped_rates("portable"), "firing_ns": 12.5}
    store_rates("cpu", processor_name(), 4, {**rates, "lanes": 4})  # of an earlier version
    info = DeviceInfo.of("cpu")
    for probed in (False, True):
        assert this_cpu.rates_of(info, probed) == CpuRates.from_dict(rates, info)
    assert source() == f"measured by tune ({rates_path('cpu', processor_name())})"
    assert not probes


def test_off_takes_the_shipped_ones(folder, probes, monkeypatch):
    monkeypatch.setenv("FUTUREFILL_TUNING", "off")
    assert this_cpu.find_rates(True).rates == shipped_rates(native.cpu_isa())
    assert "FUTUREFILL_TUNING=off" in source()
    assert not probes
    assert not folder.exists()


def test_a_machine_that_is_too_busy_has_the_shipped_ones(folder, monkeypatch):
    def busy(shipped):
        raise RuntimeError("the machine is too busy to be measured")

    monkeypatch.setattr(this_cpu, "probe", busy)
    assert this_cpu.find_rates(True).rates == shipped_rates(native.cpu_isa())
    assert "too busy" in source()
    assert not folder.exists()


def test_what_the_probe_measures_is_whole():
    threads = torch.get_num_threads()
    with torch.device("meta"):
        found = probe(shipped_rates(native.cpu_isa()))
    assert torch.get_num_threads() == threads
    rates = CpuRates.from_dict(json.loads(json.dumps(found)), DeviceInfo.of("cpu"))
    shipped = CpuRates.from_dict(shipped_rates(native.cpu_isa()), DeviceInfo.of("cpu"))
    assert [block for block, _ in rates.steps] == [block for block, _ in shipped.steps]
    assert [block for block, _ in rates.fills] == [block for block, _ in shipped.fills]
    assert rates.steps != shipped.steps
    assert min(ns for _, ns in rates.steps) > 0
    for _, tiers in rates.fills:
        assert len(tiers) == len(TIERS)
        assert 0 < tiers[0].single <= tiers[1].single <= tiers[2].single
        assert 0 <= tiers[0].product <= tiers[1].product <= tiers[2].product
    assert rates.last_level_bytes <= 128 << 20


def test_scales_are_log_linear_between_measured_blocks():
    shipped = [(block, 10.0 * block) for block in (4, 8, 16, 32, 64)]
    found = scales(shipped, {8: 80.0, 32: 1280.0})
    assert found == pytest.approx([1, 1, 2, 4, 4])
