"""Device records: known names, this machine, and refusals."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from futurefill_kernels.planning.device import DeviceInfo
from futurefill_kernels.planning.gpu_times import SHIPPED, GpuTimes
from futurefill_kernels.planning.rates import store_rates

GPUS = ["a100", "h100", "h200", "b200", "l4", "rtx4090"]


@pytest.mark.parametrize("name", GPUS)
def test_named_record_is_complete(name):
    d = DeviceInfo.named(name.upper())
    assert d.name == name
    assert d.kind == "cuda"
    assert d.capability >= (8, 0)
    for field in (
        "sm_count",
        "memory_bytes",
        "last_level_bytes",
        "shared_per_block",
        "shared_per_sm",
    ):
        assert getattr(d, field) > 0, field
    assert d.shared_per_block < d.shared_per_sm
    assert 1e11 < d.dram_bytes_per_second < 1e13
    assert 1e13 < d.fp32_flops < 1e14
    assert 1e-6 < d.launch_seconds < 1e-4


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown device name 'v100'; expected one of a100, h100"):
        DeviceInfo.named("v100")


def test_cpu_record_of_this_machine():
    d = DeviceInfo.of("cpu")
    assert d == DeviceInfo.of(torch.device("cpu"))
    assert d.kind == "cpu"
    assert d.sm_count == torch.get_num_threads()
    assert d.memory_bytes > 1 << 28
    assert d.last_level_bytes >= 1 << 18


def test_record_passes_through():
    d = DeviceInfo.named("l4")
    assert DeviceInfo.of(d) is d


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="expected a cpu or cuda device, got meta"):
        DeviceInfo.of("meta")


def test_cuda_of_this_machine():
    if torch.cuda.is_available():
        d = DeviceInfo.of("cuda")
        assert d.kind == "cuda"
        assert d.sm_count == torch.cuda.get_device_properties(0).multi_processor_count
    else:
        with pytest.raises(ValueError, match=r"DeviceInfo\.named"):
            DeviceInfo.of("cuda")


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A GPU of no known model, of the generation of the l4 and the rtx4090."""
    properties = SimpleNamespace(
        name="NVIDIA RTX 1234", major=8, minor=9, multi_processor_count=64, total_memory=12 << 30,
        L2_cache_size=24 << 20,
    )  # fmt: skip
    monkeypatch.setenv("FUTUREFILL_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("FUTUREFILL_TUNING", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    return properties


def test_an_unknown_gpu_has_the_rates_of_the_nearest_per_multiprocessor(gpu):
    found, l4 = DeviceInfo.of("cuda"), DeviceInfo.named("l4")
    assert (found.name, found.kind, found.sm_count) == ("NVIDIA RTX 1234", "cuda", 64)
    assert (found.memory_bytes, found.last_level_bytes) == (12 << 30, 24 << 20)
    assert found.capability == (8, 9)
    scale = 64 / l4.sm_count
    assert found.dram_bytes_per_second == pytest.approx(scale * l4.dram_bytes_per_second)
    assert found.fp32_flops == pytest.approx(scale * l4.fp32_flops)
    # what this version of torch does not say
    assert found.shared_per_sm == l4.shared_per_sm
    gpu.L2_cache_size = 0
    assert DeviceInfo.of("cuda").last_level_bytes == l4.last_level_bytes


def test_a_known_gpu_has_its_own_rates(gpu):
    gpu.name, gpu.multi_processor_count = "NVIDIA L4", 58
    found, l4 = DeviceInfo.of("cuda:0"), DeviceInfo.named("l4")
    assert (found.name, found.memory_bytes) == ("l4", 12 << 30)
    assert found.dram_bytes_per_second == l4.dram_bytes_per_second
    assert found.fp32_flops == l4.fp32_flops


def test_measured_rates_replace_published_ones(gpu):
    times = json.loads(SHIPPED.read_text())["h200"]
    rates = {"launch_seconds": 5e-6, "times": times}
    store_rates("cuda", gpu.name, gpu.multi_processor_count, rates)
    found = DeviceInfo.of("cuda")
    assert found.launch_seconds == 5e-6
    assert found.times == GpuTimes.parse(times)
