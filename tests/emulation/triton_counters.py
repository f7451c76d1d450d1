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
    apply_launch,
    fill_launch,
    history_launch,
    prefill_inputs_launch,
    prefill_outputs_launch,
)
from futurefill_kernels.state.tensors import StreamState, allocate
from tests.emulation import emulator, prompt_counters, token_counters
from tests.emulation.cases import ApplyCase, FillCase, HistoryCase, PrefillCase
from tests.emulation.counters import Counters, Resources, counters
from tests.emulation.triton_compile import CAPABILITIES, resources
from tests.oracles import fill

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
        state.ring, state.open_block, state.kept, state.spectra, state.positions, None,
        state.plan.levels[0], state.channels_per_filter,
    )  # fmt: skip


def fill_of(case: FillCase) -> tuple[StreamState, torch.Tensor, Callable[[], Launch]]:
    """State, filters (D, L), and the launch at the state's positions."""
    plan = Plan(case.block * case.radix, (case.block,))
    state, h = state_of(plan, case.channels, case.batch, 1, case.spectra_dtype)
    level = plan.levels[0]
    config = fill_config(level.transform, DeviceInfo.named("a100"), level.kept > 0)
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


def history_of(case: HistoryCase) -> tuple[StreamState, torch.Tensor, Launch]:
    """State, filters (D, L) of all layers, and the launch at the state's positions."""
    state, h = state_of(token_counters.plan_of(case), case.channels, case.batch, case.layers)
    launch = history_launch(
        state.ring, state.open_block, state.taps, state.positions, None, state.token_at, state.undo,
        state.history, 1, DeviceInfo.named("h100"),
    )  # fmt: skip
    return state, h, launch


def apply_of(state: StreamState, u: torch.Tensor, y: torch.Tensor, last: bool) -> Launch:
    """The launch for one token of the first layer, without gates and skip."""
    return apply_launch(
        u, None, None, y, state.ring, state.open_block, state.taps, None, state.history,
        state.token_at, state.positions, None, 0, last, 1,
    )  # fmt: skip


def count_history(case: HistoryCase, capability: int = 80, checks: bool = False) -> Counters:
    """Counters of one launch at ``case.position`` in every row."""
    state, h, launch = history_of(case)

    def run(state: StreamState) -> Any:
        return emulate(launch, capability, checks)

    found, _ = token_counters.count_history(case, state, h, run, _programs, _registers)
    return found


def count_apply(case: ApplyCase, capability: int = 80, checks: bool = False) -> Counters:
    """Counters of one token of one layer."""
    state, h = state_of(Plan(8, (8,)), case.channels, case.batch, 1)

    def run(state: StreamState, u: torch.Tensor, y: torch.Tensor) -> Any:
        return emulate(apply_of(state, u, y, case.last), capability, checks)

    return token_counters.count_apply(case, state, h, run, _programs, _registers)


def _programs(stats: Any) -> int:
    """Those of one warp."""
    return math.prod(stats.grid)


def _registers(stats: Any) -> int:
    return int(stats.registers)


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
    FillCase: count_fill, PrefillCase: count_prefill,
    HistoryCase: count_history, ApplyCase: count_apply,
}  # fmt: skip


def shipped_launches() -> Iterator[tuple[str, Launch]]:
    """Every configuration that impl="triton" launches for the named devices, smallest first."""
    for block in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048):
        _, _, launch = fill_of(FillCase(block, 32, 1, 1, 2))
        yield f"future_fill, block {block}", launch()
    for part in ("inputs", "outputs"):
        case = PrefillCase(part, 512, 128, 64, 1)
        yield f"prefill_{part}", prefill_of(case, *prompt_counters.arguments_of(case)[0])
    for case in (HistoryCase(64, 1024, 1, 64), HistoryCase(64, 1024, 8, 64, 12)):
        _, _, launch = history_of(case)
        yield f"history, rows of a program: {launch.constants['ROWS']}", launch
    state, _ = state_of(Plan(8, (8,)), 1024, 1, 1)
    for dtype in (torch.float32, torch.bfloat16):
        u = torch.zeros(1, 1024, dtype=dtype)
        yield f"apply_step, {str(dtype)[6:]}", apply_of(state, u, u, True)


def resource_rows() -> Iterator[tuple[str, int, Resources]]:
    """Name, capability and resources of every shipped configuration, compiled on this machine."""
    for name, launch in shipped_launches():
        for capability in CAPABILITIES:
            yield name, capability, resources(launch, capability)
