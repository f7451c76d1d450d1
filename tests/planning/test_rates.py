"""The store of measured rates: found again under each mode, and what it refuses."""

from __future__ import annotations

import pytest

from futurefill_kernels.planning import processor
from futurefill_kernels.planning.cpu_cost import CpuRates, shipped_rates
from futurefill_kernels.planning.device import DeviceInfo
from futurefill_kernels.planning.rates import load_rates, rates_path, store_rates


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FUTUREFILL_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("FUTUREFILL_TUNING", "strict")
    return tmp_path


def test_modes(folder, monkeypatch):
    store_rates("cuda", "NVIDIA A", 100, {"launch_seconds": 1.0})
    store_rates("cuda", "NVIDIA B", 140, {"launch_seconds": 2.0})
    store_rates("cpu", "C", 16, {"launch_seconds": 3.0})
    assert load_rates("cuda", "nvidia a", 1) == {"launch_seconds": 1.0}
    assert load_rates("cuda", "NVIDIA C", 139) is None
    monkeypatch.setenv("FUTUREFILL_TUNING", "nearest")
    assert load_rates("cuda", "NVIDIA C", 139) == {"launch_seconds": 2.0}
    assert load_rates("cuda", "NVIDIA C", 101) == {"launch_seconds": 1.0}
    monkeypatch.setenv("FUTUREFILL_TUNING", "off")
    assert load_rates("cuda", "NVIDIA A", 100) is None
    monkeypatch.setenv("FUTUREFILL_TUNING", "loose")
    with pytest.raises(ValueError, match="FUTUREFILL_TUNING"):
        load_rates("cuda", "NVIDIA A", 100)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99, "rates": {}}', '{"format": 1}'])
def test_a_file_that_holds_no_rates_is_named(folder, text):
    path = rates_path("cpu", "X 1")
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cpu-x-1\.json does not hold rates"):
        load_rates("cpu", "X 1", 8)


def test_what_nobody_reads_does_no_harm(folder):
    """Files of earlier versions name the lanes among a processor's rates, too."""
    rates = {**shipped_rates("portable"), "firing_ns": 12.5}
    store_rates("cpu", processor.processor_name(), 4, {**rates, "lanes": 4})
    info = DeviceInfo.of("cpu")
    assert CpuRates.of(info) == CpuRates.from_dict(rates, info)
