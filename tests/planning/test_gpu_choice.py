"""What does what under "auto" on a GPU: from the times that are shipped, and from others."""

from __future__ import annotations

import dataclasses

import pytest

from futurefill_kernels import DeviceInfo, Plan
from futurefill_kernels.implementations import cuda, cuda_early, select, triton
from futurefill_kernels.implementations.mixed import Mixed
from futurefill_kernels.planning import gpu_choice
from futurefill_kernels.planning.gpu_cost import times_of
from futurefill_kernels.planning.gpu_times import GpuTimes, KernelTimes, Time
from futurefill_kernels.planning.workload import Workload

INFO = DeviceInfo.named("h200")


def with_times(**kernels: tuple[float, dict[int, float], float]) -> DeviceInfo:
    """An H200 with (step, {block: fill}, prompt) in seconds of each implementation."""
    found = tuple(
        (
            name,
            KernelTimes(
                1e-6, (Time(32, 24, 1, step),),
                tuple(Time(block, 1, 1, fill) for block, fill in fills.items()),
                (Time(4096, 1, 1, prompt),),
            ),
        )
        for name, (step, fills, prompt) in kernels.items()
    )  # fmt: skip
    return dataclasses.replace(INFO, times=GpuTimes(1024, 4e12, 1e-7, found))


def test_each_part_is_what_was_fastest():
    plan, workload = Plan(1024, (16, 64, 256)), Workload(1024, 1024, 1024, 1, 1, 1024)
    info = with_times(
        cuda=(4e-5, {16: 9e-6, 64: 9e-6, 256: 1e-5}, 4e-4),
        triton=(3e-5, {16: 8e-6, 64: 8e-6, 256: 2e-5}, 5e-4),
    )
    assert gpu_choice.order(info) == ["triton", "cuda"]
    assert gpu_choice.of_prompts(("cuda", "triton"), info) == "cuda"
    assert gpu_choice.of_levels(plan, workload, info) == ("triton", "triton", "cuda")
    alone = dataclasses.replace(workload, impls=("triton",))
    assert gpu_choice.of_levels(plan, alone, info) == ("triton",) * 3


def test_forms_of_fills_take_part_where_they_were_timed():
    """In nothing but fills, and only where their implementation may."""
    plan, workload = Plan(1024, (16, 64, 256)), Workload(1024, 1024, 1024, 1, 1, 1024)
    info = with_times(
        cuda=(4e-5, {16: 9e-6, 64: 9e-6, 256: 1e-5}, 4e-4),
        cuda_early=(1e-6, {64: 5e-6, 256: 2e-5}, 1e-6),
        triton=(3e-5, {16: 4e-6, 64: 8e-6, 256: 2e-5}, 5e-4),
    )
    assert gpu_choice.order(info) == ["triton", "cuda"]
    assert gpu_choice.of_prompts(("cuda", "triton"), info) == "cuda"
    assert gpu_choice.of_levels(plan, workload, info) == ("triton", "cuda_early", "cuda")
    narrow = dataclasses.replace(workload, ring_itemsize=2)
    assert "cuda_early" not in gpu_choice.of_levels(plan, narrow, info)
    mixed = select.fastest_parts(plan, workload, info)
    assert mixed == Mixed(triton, cuda, (triton, cuda_early, cuda))
    alone = dataclasses.replace(workload, impls=("triton",))
    assert gpu_choice.of_levels(plan, alone, info) == ("triton",) * 3


def test_what_was_not_timed_is_last():
    plan, workload = Plan(1024, (16, 64)), Workload(1024, 1024, 1024, 1, 1, 1024)
    info = with_times(triton=(1.0, {64: 1.0}, 1.0))
    assert gpu_choice.order(info) == ["triton", "cuda"]
    assert gpu_choice.of_levels(plan, workload, info) == ("triton", "triton")
    assert gpu_choice.of_prompts(("cuda", "triton"), info) == "triton"
    assert gpu_choice.of_prompts(("cuda",), info) == "cuda"
    with pytest.raises(ValueError, match="no times of 'cuda', only of triton: run python -m"):
        gpu_choice.of_levels(plan, dataclasses.replace(workload, impls=("cuda",)), info)


def test_on_an_h200():
    """Triton's fills were faster up to 2048, and have passes of their own from 16384 on; blocks
    between and prompts are CUDA's.
    """
    plan, workload = Plan.continuous(32768, 64), Workload(32768, 32768, 1024, 1, 24, 1024)
    expected = dict.fromkeys((64, 128, 256, 512, 1024, 2048), "triton")
    expected |= dict.fromkeys((4096, 8192), "cuda") | {16384: "triton"}
    assert gpu_choice.of_levels(plan, workload, INFO) == tuple(
        expected[level.block] for level in plan.levels
    )
    assert gpu_choice.of_prompts(("cuda", "triton"), INFO) == "cuda"
    assert {name for name, _ in times_of(INFO).kernels} == {"cuda", "triton"}
