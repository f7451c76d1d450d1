"""What does what under "auto" on a GPU: from the times that are shipped, and from others."""

from __future__ import annotations

import dataclasses

import pytest

from futurefill_kernels import DeviceInfo, Plan
from futurefill_kernels.implementations import cuda, cuda_early, fft_fill, select, triton
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
    assert gpu_choice.of_prompts(("cuda", "triton"), info) == ((0, "cuda"),)
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
    assert gpu_choice.of_prompts(("cuda", "triton"), info) == ((0, "cuda"),)
    assert gpu_choice.of_levels(plan, workload, info) == ("triton", "cuda_early", "cuda")
    narrow = dataclasses.replace(workload, ring_itemsize=2)
    assert "cuda_early" not in gpu_choice.of_levels(plan, narrow, info)
    mixed = select.fastest_parts(plan, workload, info)
    assert mixed == Mixed(triton, cuda, (triton, cuda_early, cuda))
    alone = dataclasses.replace(workload, impls=("triton",))
    assert gpu_choice.of_levels(plan, alone, info) == ("triton",) * 3


def test_steps_are_those_that_are_fastest_for_the_stream():
    """One that launches fast for a small model, one that reads fast for a large one."""
    small, large = Workload(1024, 1024, 64, 1, 2, 64), Workload(1024, 1024, 4096, 64, 48, 4096)
    times = {
        "cuda": (Time(64, 1, 1, 4e-6), Time(64, 24, 64, 9e-4)),
        "triton": (Time(64, 1, 1, 2e-5), Time(64, 24, 64, 3e-4)),
    }
    kernels = tuple(
        (name, KernelTimes(1e-6, steps, (Time(64, 1, 1, 1e-5),), ()))
        for name, steps in times.items()
    )
    info = dataclasses.replace(INFO, times=GpuTimes(1024, 4e12, 1e-7, kernels))
    plan = Plan(1024, (64,))
    assert gpu_choice.of_steps(plan, small, info) == "cuda"
    assert gpu_choice.of_steps(plan, large, info) == "triton"
    assert select.fastest_parts(plan, large, info).steps is triton


def test_fills_through_torch_are_taken_where_they_are_fastest():
    """Timed as a form of their own, or from the three calls; where the stream may have them."""
    plan, workload = Plan(1024, (16, 64, 256)), Workload(1024, 1024, 1024, 1, 1, 1024)
    kernels = {"cuda": (4e-5, {16: 9e-6, 64: 9e-6, 256: 4e-4}, 4e-4)}
    info = with_times(**kernels, fft=(1.0, {16: 1e-4, 64: 1e-4, 256: 1e-5}, 1.0))
    expected = ("cuda", "cuda", "fft")
    assert gpu_choice.of_levels(plan, workload, info) == expected
    assert select.fastest_parts(plan, workload, info) == Mixed(cuda, cuda, (cuda, cuda, fft_fill))
    alone = dataclasses.replace(workload, impls=("cuda",))
    assert gpu_choice.of_levels(plan, alone, info) == ("cuda",) * 3
    info = with_times(**kernels)
    assert gpu_choice.of_levels(plan, workload, info) == ("cuda",) * 3
    calls = dataclasses.replace(info.times, fft_fills=(Time(256, 1, 1, 9e-6),))
    info = dataclasses.replace(info, times=calls)
    assert gpu_choice.of_levels(plan, workload, info) == expected


def test_a_block_for_which_one_has_no_kernels_is_done_by_another():
    """Above the longest passes torch.fft, and where an index of Triton's would not fit, CUDA."""
    plan = Plan(1 << 20, (64, 1 << 18, 1 << 19))
    narrow, wide = (Workload(1 << 20, 1 << 20, d, 1, 1, d) for d in (1024, 4096))
    assert gpu_choice.of_levels(plan, narrow, INFO) == ("triton", "triton", "fft")
    assert gpu_choice.of_levels(plan, wide, INFO) == ("triton", "cuda", "fft")


def test_prompts_change_hands_half_way_between_two_lengths():
    shapes = ((1024, 1, 1), (4096, 1, 1), (16384, 1, 1), (65536, 1, 1))
    times = {"cuda": (1, 2, 9, 9), "triton": (2, 1, 8, 10)}
    kernels = tuple(
        (name, KernelTimes(1e-6, (), (), tuple(map(Time, *zip(*shapes, strict=True), found))))
        for name, found in times.items()
    )
    info = dataclasses.replace(INFO, times=GpuTimes(1024, 4e12, 1e-7, kernels))
    assert gpu_choice.of_prompts(("cuda", "triton"), info) == (
        (0, "cuda"), (2048, "triton"), (32768, "cuda")
    )  # fmt: skip


def test_what_was_not_timed_is_last():
    plan, workload = Plan(1024, (16, 64)), Workload(1024, 1024, 1024, 1, 1, 1024)
    info = with_times(triton=(1.0, {64: 1.0}, 1.0))
    assert gpu_choice.order(info) == ["triton", "cuda"]
    assert gpu_choice.of_levels(plan, workload, info) == ("triton", "triton")
    assert gpu_choice.of_prompts(("cuda", "triton"), info) == ((0, "triton"),)
    assert gpu_choice.of_prompts(("cuda",), info) == ((0, "cuda"),)
    with pytest.raises(ValueError, match="no times of 'cuda', only of triton: run python -m"):
        gpu_choice.of_levels(plan, dataclasses.replace(workload, impls=("cuda",)), info)


def test_on_an_h200():
    """Triton's fills were faster up to 2048, and have passes of their own from 16384 on, and its
    longest prompts; blocks between and other prompts are CUDA's.
    """
    plan, workload = Plan.continuous(32768, 64), Workload(32768, 32768, 1024, 1, 24, 1024)
    expected = dict.fromkeys((64, 128, 256, 512, 1024, 2048), "triton")
    expected |= dict.fromkeys((4096, 8192), "cuda") | {16384: "triton"}
    assert gpu_choice.of_levels(plan, workload, INFO) == tuple(
        expected[level.block] for level in plan.levels
    )
    expected_prompts = ((0, "cuda"), (65536, "triton"))  # half-way between two that were timed
    assert gpu_choice.of_prompts(("cuda", "triton"), INFO) == expected_prompts
    assert {name for name, _ in times_of(INFO).kernels} == {"cuda", "triton"}
