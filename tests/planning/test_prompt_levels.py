"""Blocks of prompts in many calls, from what a device's launches and points take."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from futurefill_kernels.planning.device import DeviceInfo
from futurefill_kernels.planning.gpu_cost import times_of
from futurefill_kernels.planning.prompt_levels import (
    ON_A_CPU,
    SMALLEST,
    gpu_levels,
    prompt_levels,
)

H200 = DeviceInfo.named("h200")


def test_a_cpu_keeps_transforms():
    assert prompt_levels(torch.device("cpu")) is ON_A_CPU
    assert ON_A_CPU.pairs_from == 4096
    assert gpu_levels(H200).pairs_from == SMALLEST


@pytest.mark.parametrize("channels", [256, 1024, 8192, 1 << 20])
@pytest.mark.parametrize("call", [1, 64, 512, 5000])
def test_a_block_divides_its_position_and_is_a_quarter_of_it(call, channels):
    levels = gpu_levels(H200)
    for position in (0, 64, 128, 192, 4096, 4160, 65536, 65536 * 3):
        block = levels.first_block(position, call, channels)
        assert block >= SMALLEST
        assert block & (block - 1) == 0
        assert position % block == 0
        assert block == SMALLEST or 4 * block <= position


def test_the_block_costs_least():
    """Of all blocks, by the same rates: what a call transforms, and the fills' launches."""
    levels, call, channels = gpu_levels(H200), 512, 1024
    times = times_of(H200)
    launches = levels.fill_points * times.fft_seconds_per_point

    def seconds(block):
        return block * channels * times.fft_seconds_per_point + call / block * launches

    best = min((1 << k for k in range(6, 18)), key=seconds)
    assert levels.first_block(1 << 20, call, channels) == best


def test_slower_launches_and_fewer_channels_make_longer_blocks():
    shipped = times_of(H200)
    slow = tuple(
        (name, dataclasses.replace(kernels, launch_seconds=16 * kernels.launch_seconds))
        for name, kernels in shipped.kernels
    )
    info = dataclasses.replace(H200, times=dataclasses.replace(shipped, kernels=slow))
    usual = gpu_levels(H200).first_block(1 << 20, 512, 1024)
    assert gpu_levels(info).first_block(1 << 20, 512, 1024) == 4 * usual
    assert gpu_levels(H200).first_block(1 << 20, 512, 64) == 4 * usual


def test_a_device_without_times_of_transforms_has_those_of_its_bytes():
    times = dataclasses.replace(times_of(H200), fft_fills=())
    assert 0 < times.fft_seconds_per_point < times_of(H200).fft_seconds_per_point
