"""Counters of the Triton kernels: one launch in the PTX emulator, checked against float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from futurefill_kernels import DeviceInfo, Plan
from futurefill_kernels.implementations import triton
from futurefill_kernels.implementations.triton_kernels.config import fill_config
from futurefill_kernels.implementations.triton_kernels.launch import (
    Fill,
    Launch,
    fill_launch,
    multiply_launch,
    prefill_inputs_launch,
    prefill_outputs_launch,
    step_launch,
)
from futurefill_kernels.plan import Level
from futurefill_kernels.state.tensors import StreamState, allocate
from tests.emulation import emulator, prompt_counters
from tests.emulation.cases import FillCase, PrefillCase, ProductCase, StepCase
from tests.emulation.counters import Counters, Resources, counters
from tests.emulation.product_counters import count_products, plan_of
from tests.emulation.triton_compile import CAPABILITIES, resources
from tests.oracles import fill, short_range

#: name of the kernel between the transforms of torch.fft
PRODUCTS = "multiply_accumulate"
#: blocks that only this implementation fuses
MORE_FILL_CASES: tuple[FillCase, ...] = ()


def state_of(
    plan: Plan,
    channels: int,
    batch: int,
    layers: int,
    spectra_dtype: torch.dtype = torch.float32,
) -> tuple[StreamState, torch.Tensor]:
    """A stream with random inputs in its ring, and the filters (D, L) of all its layers."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(channels, plan.filter_length, generator=generator)
    layout = triton.make_layout(channels, channels, torch.float32, plan)
    state = allocate(plan, layout, triton.make_spectra, [h] * layers, batch, None, spectra_dtype)
    state.ring[..., :channels].normal_(generator=generator)
    return state, h


def emulate(launch: Launch, capability: int, checks: bool) -> Any:
    """Compile for ``sm_<capability>`` and run; the emulator's statistics.

    checks: for races and uninitialised reads.
    """
    ptxemu = emulator.load()
    return ptxemu.run_triton(
        launch.kernel, launch.grid, *launch.arguments, **launch.constants, **launch.options,
        arch=capability, racecheck=checks, initcheck=checks, threads=1,
    )  # fmt: skip


def _fill(state: StreamState) -> Fill:
    """Of the plan's only level, all rows."""
    return Fill(
        state.ring, state.kept, state.spectra, state.positions, None, state.plan.levels[0],
        state.channels_per_filter,
    )  # fmt: skip


def fill_of(case: FillCase) -> tuple[StreamState, torch.Tensor, Callable[[], Launch]]:
    """State, filters (D, L), and the launch at the state's positions."""
    plan = Plan(case.block * case.radix, (case.block,))
    state, h = state_of(plan, case.channels, case.batch, 1, case.spectra_dtype)
    config = fill_config(plan.levels[0].transform, DeviceInfo.named("a100"))
    assert config is not None

    def launch() -> Launch:
        return fill_launch(_fill(state), config, 0, case.channels)

    return state, h, launch


def count_fill(case: FillCase, capability: int = 80, checks: bool = False) -> Counters:
    """Counters of firing ``case.index`` after the ones before it, and its error."""
    state, h, launch = fill_of(case)
    clean = state.ring.clone()
    for i in range(1, case.index + 1):
        state.positions.fill_(i * case.block)
        state.ring.copy_(clean)
        stats = emulate(launch(), capability, checks)
    start, stop = case.index * case.block, (case.index + 1) * case.block
    u = clean[:, :, 0, :start, : case.channels].transpose(-1, -2)[0]
    before = clean[0, :, 0, start:stop, : case.channels].double().mT
    expected = before + fill(u, h, case.block)
    got = state.ring[0, :, 0, start:stop, : case.channels].double().mT
    return counters(
        stats, got, expected, case.compulsory, case.nominal_flops,
        stats.total_thread_insts / (case.block * case.channels * case.batch), stats.registers,
    )  # fmt: skip


def products_of(state: StreamState, values: torch.Tensor, rows: torch.Tensor) -> Launch:
    """Products of the first layer's spectra values (R, n, D, 2)."""
    return multiply_launch(_fill(state), values, rows, 0, 0)


def count_product(case: ProductCase, capability: int = 80, checks: bool = False) -> Counters:
    """Counters of the products of firing ``case.index`` after the ones before it."""
    state, _ = state_of(plan_of(case), case.channels, case.batch, 1)

    def run(state: StreamState, level: Level, values: torch.Tensor, rows: torch.Tensor) -> Any:
        return emulate(products_of(state, values, rows), capability, checks)

    return count_products(case, state, run, lambda stats: stats.registers)


def count_step(case: StepCase, capability: int = 80, checks: bool = False) -> Counters:
    """Counters of one step at ``case.position`` in every row, and its error in float64."""
    plan = Plan(4 * case.block, (case.block,))
    state, h = state_of(plan, case.channels, case.batch, 1)
    state.positions.fill_(case.position)
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(case.batch, case.channels, generator=generator).to(case.dtype)
    y = torch.full_like(u, float("nan"))
    taken = case.position % case.block
    slots = state.ring[0, :, 0, :, : case.channels]
    recent = torch.cat([slots[:, case.position - taken : case.position], u[:, None].float()], 1)
    expected = short_range(slots[:, case.position], recent, h)
    launch = step_launch(
        u, None, None, y, state.ring, state.taps, None, state.positions, None, 0, case.last,
        1, DeviceInfo.named("h100"),
    )  # fmt: skip
    stats = emulate(launch, capability, checks)
    assert state.positions.tolist() == [case.position + case.last] * case.batch
    programs = math.prod(launch.grid) * launch.options["num_warps"]
    nominal = case.nominal_flops
    return counters(
        stats, y, expected, case.compulsory, nominal, stats.total_warp_insts / programs,
        stats.registers,
    )  # fmt: skip


def prefill_of(case: PrefillCase, *arguments: Any) -> Launch:
    """The launch of the case's kernel."""
    inputs = case.part == "inputs"
    return (prefill_inputs_launch if inputs else prefill_outputs_launch)(*arguments)


def count_prefill(case: PrefillCase, capability: int = 80, checks: bool = False) -> Counters:
    """Counters of one launch."""

    def run(*arguments: Any) -> Any:
        return emulate(prefill_of(case, *arguments), capability, checks)

    return prompt_counters.count(case, run, lambda stats: stats.registers)


#: type of a case -> what counts one
COUNT = {
    FillCase: count_fill, PrefillCase: count_prefill, ProductCase: count_product,
    StepCase: count_step,
}  # fmt: skip


def shipped_launches() -> Iterator[tuple[str, Launch]]:
    """Every configuration that impl="triton" launches for the named devices, smallest first."""
    for block in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048):
        _, _, launch = fill_of(FillCase(block, 32, 1, 1, 2))
        yield f"future_fill, block {block}", launch()
    state, _ = state_of(Plan(2 * 4096, (4096,)), 32, 1, 1)
    values = torch.zeros(1, 4096, 32, 2)
    yield "multiply_accumulate", products_of(state, values, torch.arange(1))
    for part in ("inputs", "outputs"):
        case = PrefillCase(part, 512, 128, 64, 1)
        yield f"prefill_{part}", prefill_of(case, *prompt_counters.arguments_of(case)[0])
    info = DeviceInfo.named("a100")
    for batch, channels, block, dtype in (
        (1, 1024, 16, torch.float32), (1, 1024, 64, torch.float32), (1, 1024, 64, torch.bfloat16),
        (2, 1024, 64, torch.float32), (8, 1024, 64, torch.float32), (8, 1000, 64, torch.bfloat16),
        (1, 1024, 256, torch.float32), (8, 1024, 256, torch.float32),
    ):  # fmt: skip
        state, _ = state_of(Plan(2 * block, (block,)), channels, batch, 1)
        u = torch.zeros(batch, channels, dtype=dtype)
        launch = step_launch(
            u, u, u, u, state.ring, state.taps, state.taps[:, 0, 0], state.positions, None, 0,
            True, 1, info,
        )  # fmt: skip
        name = f"short_range_step, B={batch} D={channels} T_0={block} {str(dtype)[6:]}"
        yield f"{name}, {launch.constants['ROWS']} rows a program", launch


def resource_rows() -> Iterator[tuple[str, int, Resources]]:
    """Name, capability and resources of every shipped configuration, compiled on this machine."""
    for name, launch in shipped_launches():
        for capability in CAPABILITIES:
            yield name, capability, resources(launch, capability)
