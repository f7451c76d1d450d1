"""The clocks of a GPU, here on the CPU: the same calls time both."""

from __future__ import annotations

import dataclasses
import json

import torch

from futurefill_kernels.cli.tune.measure_gpu import measure_gpu
from futurefill_kernels.planning.device import DeviceInfo


def test_a_gpus_rates_are_fields_of_its_record():
    """Measured here on the CPU: the same calls time a GPU."""
    rates = measure_gpu(torch.device("cpu"), scale=1 << 16)
    found = dataclasses.replace(DeviceInfo.named("l4"), **rates)
    assert found.launch_seconds < 1e-3
    assert found.dram_bytes_per_second > 1e6
    assert found.fp32_flops > 1e6
    assert set(json.loads(json.dumps(rates))) == set(rates)
