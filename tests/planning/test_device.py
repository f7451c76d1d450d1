"""Device records: known names, this machine, and refusals."""

import pytest
import torch

from futurefill_kernels.planning.device import DeviceInfo

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
