"""The store of measured rates: found again under each mode, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_without_a_home_nothing_is_stored(monkeypatch):
    monkeypatch.setenv("FUTUREFILL_TUNING", "nearest")
    for name in ("FUTUREFILL_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert load_rates("cpu", "X 1", 8) is None
    with pytest.raises(RuntimeError, match="FUTUREFILL_CACHE_DIR"):
        store_rates("cpu", "X 1", 8, {})
