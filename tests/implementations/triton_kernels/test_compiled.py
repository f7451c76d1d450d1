"""Compiled Triton kernels: resources on four targets, and counts of runs in a PTX emulator.

Nothing here needs a GPU. Compiling needs Triton, running the emulator that FUTUREFILL_PTXEMU names.
Every kernel, each of its paths and each check for hazards has a case that runs every time, on one
target; ``-m slow`` has the other targets and sizes.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from futurefill_kernels import DeviceInfo, Plan
from futurefill_kernels.implementations import triton as triton_impl
from futurefill_kernels.state.tensors import allocate
from tests.emulation import emulator
from tests.emulation.cases import BLOCKS, ApplyCase, FillCase, HistoryCase
from tests.fast import combinations
from tests.oracles import fill as future_fill
from tests.oracles import relative_error

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

from futurefill_kernels.implementations.triton_kernels import config, long_launch
from futurefill_kernels.implementations.triton_kernels import launch as launches
from futurefill_kernels.implementations.triton_kernels.ahead import stream_launches
from futurefill_kernels.implementations.triton_kernels.sizes import StreamSizes
from tests.emulation import triton_compile, triton_counters

needs_emulator = pytest.mark.skipif(
    emulator.unavailable() is not None, reason=str(emulator.unavailable())
)
both_targets = pytest.mark.parametrize("capability", combinations([80, 90], fast={80}))
DEVICES = {80: "a100", 90: "h100", 100: "b200", 120: "rtx4090"}
REGISTERS = {2048: 255, 4096: 255}
#: Of four rows: 19 of its one-warp programs fit on an SM, whose registers go in eights.
HISTORY_REGISTERS = 104


def check_resources(launch, capability: int, registers: int, spills: int = 0) -> None:
    used = triton_compile.resources(launch, capability)
    print(used)
    info = DeviceInfo.named(DEVICES[capability])
    assert used.stack <= spills
    assert used.registers <= registers
    assert used.shared <= 64 << 10 <= info.shared_per_block


@pytest.mark.parametrize("capability", combinations(triton_compile.CAPABILITIES, fast={90}))
@pytest.mark.parametrize("block", combinations([16, 256, 512, 2048, 4096], fast={512}))
def test_fill_compiles_without_spills(block, capability):
    _, _, launch = triton_counters.fill_of(FillCase(block, 32, 1, 1, 2))
    check_resources(launch(), capability, REGISTERS.get(block, 128))


@pytest.mark.parametrize("capability", combinations(triton_compile.CAPABILITIES, fast={90}))
@pytest.mark.parametrize("block", combinations([16, 256, 512, 1024, 2048], fast={256}))
def test_fill_with_kept_spectra_spills_from_2048_on(block, capability):
    _, _, launch = triton_counters.fill_of(FillCase(block, 32, 1, 2, 4))
    registers = 128 if block <= 256 else 255
    check_resources(launch(), capability, registers, 700 if block > 1024 else 0)


@pytest.mark.parametrize("capability", combinations(triton_compile.CAPABILITIES, fast={90}))
@pytest.mark.parametrize("block", combinations([16, 2048], fast={16}))
def test_fill_with_bfloat16_spectra_compiles_without_spills(block, capability):
    _, _, launch = triton_counters.fill_of(FillCase(block, 32, 1, 1, 2, torch.bfloat16))
    check_resources(launch(), capability, REGISTERS.get(block, 128))


@pytest.mark.parametrize("capability", combinations([80, 90], fast={90}))
@pytest.mark.parametrize(
    ("block", "radix"),
    combinations([16, 64, 256, 512, 1024], [2, 4], fast={(64, 2)}),
)
def test_fill_of_a_state_of_16_bits_compiles_without_spills(block, radix, capability):
    """Behind an open block of 8; with kept spectra, from radix 4 on."""
    plan = Plan(radix * block, (8, block))
    layout = triton_impl.make_layout(32, 32, torch.float32, plan)
    state = allocate(
        plan, layout, triton_impl.make_spectra, [torch.ones(32, plan.length)], 1, None,
        ring_dtype=torch.bfloat16,
    )  # fmt: skip
    level = plan.levels[1]
    sizes = config.fill_config(level.transform, DeviceInfo.named("a100"), level.kept > 0)
    fill = launches.Fill(
        *(state.ring, state.open_block, state.kept, state.spectra, state.positions, None, level, 1)
    )
    registers = 255 if level.kept and block > 256 else 128
    spills = 8 if block > 512 else 0
    check_resources(launches.fill_launch(fill, sizes, 0, 32), capability, registers, spills)


def token_launches(batch, channels, dtype, layers=1, groups=None, rows=None, last=True):
    """A history, and a step with gates and skip."""
    plan = Plan(48, (24,))
    groups = groups or channels
    layout = triton_impl.make_layout(channels, groups, torch.float32, plan)
    state = allocate(
        plan, layout, triton_impl.make_spectra, [torch.ones(groups, 48)] * layers, batch,
        torch.ones(channels),
    )  # fmt: skip
    u = torch.zeros(batch if rows is None else len(rows), channels, dtype=dtype)
    stream, shared = (state.ring, state.open_block, state.taps), state.channels_per_filter
    yield launches.history_launch(
        *(*stream, state.positions, rows, state.token_at, state.undo, state.history),
        *(shared, DeviceInfo.named("h100")),
    )
    yield launches.apply_launch(
        *(u, u, u, u, *stream, state.skip, state.history, state.token_at, state.positions),
        *(rows, 0, last, shared),
    )


@pytest.mark.parametrize("capability", combinations(triton_compile.CAPABILITIES, fast={80}))
@pytest.mark.parametrize("layers", combinations([1, 12], fast={12}))
def test_a_token_compiles_without_spills(layers, capability):
    history, apply = token_launches(8, 1024, torch.float32, layers)
    assert history.constants["ROWS"] == (1 if layers == 1 else 4)
    check_resources(history, capability, HISTORY_REGISTERS)
    check_resources(apply, capability, 56)


@pytest.mark.slow
@pytest.mark.parametrize("capability", triton_compile.CAPABILITIES)
def test_every_configuration_compiles_without_spills(capability):
    """Also with groups, listed rows, ragged blocks, gates, other dtypes."""
    limits = {f"future_fill, block {block}": limit for block, limit in REGISTERS.items()}
    for name, launch in triton_counters.shipped_launches():
        check_resources(launch, capability, limits.get(name, 128))
    for block in BLOCKS:
        _, _, fill = triton_counters.fill_of(FillCase(block, 32, 1, 1, 2, torch.bfloat16))
        check_resources(fill(), capability, REGISTERS.get(block, 128))
    rows = torch.arange(4)
    for block, groups in ((3, 8), (24, 16), (100, 4), (200, 32), (400, 8), (1000, 16)):
        plan = Plan(3 * block, (block,))
        layout = triton_impl.make_layout(32, groups, torch.float32, plan)
        state = allocate(
            plan, layout, triton_impl.make_spectra, [torch.ones(groups, 3 * block)], 4, None
        )
        level = plan.levels[0]
        sizes = config.fill_config(level.transform, DeviceInfo.named("a100"), level.kept > 0)
        for some in (None, rows):
            level_fill = launches.Fill(
                *(state.ring, state.open_block, state.kept, state.spectra, state.positions, some),
                level,
                state.channels_per_filter,
            )
            launch = launches.fill_launch(level_fill, sizes, 0, 32)
            check_resources(launch, capability, 255 if level.transform > 256 else 128)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for batch, channels, groups, layers in (
            (1, 7, 7, 1), (2, 1000, 500, 40), (4, 4096, 4096, 12), (8, 66, 33, 1)
        ):  # fmt: skip
            some = torch.arange(batch) if batch > 2 else None
            for last in (False, True):
                for launch in token_launches(batch, channels, dtype, layers, groups, some, last):
                    check_resources(launch, capability, 128)


# Limits a little above what was counted. The traffic is that of sectors without any cache: at B=8
# 0.54 of it are the filter spectra that every row reads. From 2048 on 4 channels take half a
# sector, the program beside them the other half.
TRAFFIC = {16: 1.01, 32: 1.03, 64: 1.03, 128: 1.05, 256: 1.05, 512: 1.1, 1024: 1.1}
INSTRUCTIONS = {
    16: 56, 32: 82, 64: 84, 128: 95, 256: 107, 512: 107, 1024: 118, 2048: 125, 4096: 135,
}  # fmt: skip
OPERATIONS = 1.06


def check_fill(found: triton_counters.Counters, block: int) -> None:
    print(found)
    assert found.error <= 2.2e-7
    # a pair of twiddles is half a sector's; channels of half a sector are the other program's
    assert found.coalescing <= (1.07 if block <= 1024 else 2.1)
    assert found.distinct <= 1.01
    assert found.conflicts <= 1
    assert found.operations <= OPERATIONS
    # one exchange each way: both components are written and read, 128 bytes at a time
    channels = config.fill_config(block, DeviceInfo.named("h100")).channels
    assert found.wavefronts <= (0 if block == 16 else block * channels / 4)


@needs_emulator
@both_targets
@pytest.mark.parametrize("block", combinations(BLOCKS, fast={16, 64, 512}))
def test_fill_counters(block, capability):
    """The first firing at B=1 with races and uninitialised reads checked."""
    found = triton_counters.count_fill(FillCase(block, 128, 1, 1, 2), capability, checks=True)
    check_fill(found, block)
    assert found.traffic <= TRAFFIC.get(block, 2.2)
    assert found.instructions <= INSTRUCTIONS[block]


@needs_emulator
@both_targets
@pytest.mark.parametrize("index", [1, 3])
def test_fill_in_three_passes(index, capability):
    """Four nodes of 32 points: races and uninitialised reads checked, a second layer and row; the
    third firing reads and replaces kept spectra.
    """
    torch.manual_seed(index)
    block, channels = 100, 40
    plan = Plan(5 * block, (block,), 3 * block)
    state, h = triton_counters.state_of(plan, channels, 2, 2)
    clean = state.ring.clone()
    sizes = config.LongConfig(4, config.fill_config(32, DeviceInfo.named("a100"), keeps=True))
    fill = launches.Fill(
        state.ring, state.open_block, state.kept, state.spectra, state.positions, None,
        plan.levels[0], 1,
    )  # fmt: skip
    for i in range(1, index + 1):
        state.positions.fill_(i * block)
        state.ring.copy_(clean)
        for launch in long_launch.long_launches(fill, sizes, 0, channels):
            triton_counters.emulate(launch, capability, checks=True)
    start = index * block
    expected = clean[:, :, 0, start : start + block, :channels].double()
    u = clean[:, :, 0, :start, :channels].mT.flatten(0, 1)
    expected += future_fill(u, h, block).unflatten(0, (2, 2)).mT
    got = state.ring[:, :, 0, start : start + block, :channels]
    assert relative_error(got, expected) < 3e-7


@pytest.mark.parametrize("capability", combinations(triton_compile.CAPABILITIES, fast={90}))
@pytest.mark.parametrize(
    ("block", "radix"),
    combinations([(8192, 2), (65536, 2), (1 << 18, 2), (16384, 4)], fast={(65536, 2)}),
)
def test_three_passes_compile_without_spills(block, radix, capability):
    plan = Plan(block * radix, (block,))
    sizes = StreamSizes(plan, 1024, 1024, 1, 1)
    info = DeviceInfo.named(DEVICES[capability])
    for launch in stream_launches(sizes, info)[sizes.fill_name(plan.levels[0])]:
        check_resources(launch, capability, 255)


@needs_emulator
@pytest.mark.parametrize("block", combinations([16, 64, 512], fast={16}))
def test_fill_counters_of_a_late_block(block):
    """Sixteen products: the kept spectra are read once, and little else is added."""
    found = triton_counters.count_fill(FillCase(block, 128, 1, 16, 18), 80, checks=True)
    check_fill(found, block)
    assert found.traffic <= 1.06
    assert found.instructions <= INSTRUCTIONS[block] + 15 * 18 + 8


@needs_emulator
@pytest.mark.parametrize("block", combinations([16, 128, 512], fast={16}))
def test_fill_counters_with_bfloat16_spectra(block):
    """Half the bytes of spectra; 8 channels take half a sector of them, the next program the other
    half.
    """
    found = triton_counters.count_fill(
        FillCase(block, 128, 1, 1, 2, torch.bfloat16), 80, checks=True
    )
    print(found)
    assert 1e-5 < found.error < 2**-8
    assert found.distinct <= 1.01
    assert found.coalescing <= 1.35
    assert found.instructions <= INSTRUCTIONS[block] + 10


@needs_emulator
@pytest.mark.parametrize("block", combinations(BLOCKS, fast={16}))
def test_fill_counters_of_a_batch(block):
    found = triton_counters.count_fill(FillCase(block, 64, 8, 1, 2))
    check_fill(found, block)
    assert found.traffic <= 1.56 * TRAFFIC.get(block, 2.2)  # every row reads the filter spectra


@needs_emulator
@both_targets
@pytest.mark.parametrize(
    ("case", "traffic", "instructions"),
    [
        # at a block's start, two 8-byte words of a warp cost a third of what is moved
        pytest.param(HistoryCase(64, 1024, 1, 64), 1.34, 125, marks=pytest.mark.slow),
        (HistoryCase(64, 1024, 1, 96), 1.016, 245),
        pytest.param(HistoryCase(64, 1024, 1, 127), 1.009, 245, marks=pytest.mark.slow),
        pytest.param(HistoryCase(64, 1000, 1, 96), 1.04, 245, marks=pytest.mark.slow),
        # four of eight rows read the taps once
        pytest.param(HistoryCase(64, 1024, 8, 96, 12), 1.12, 900, marks=pytest.mark.slow),
        (HistoryCase(16, 1024, 8, 24, 12), 1.14, 510),
    ],
    ids=str,
)
def test_history_counters(case, traffic, instructions, capability):
    found = triton_counters.count_history(case, capability, checks=True)
    print(found)
    assert found.error <= 1e-7
    assert found.registers <= (64 if case.batch == 1 else HISTORY_REGISTERS)
    assert found.coalescing == 1
    assert found.distinct <= 1.025
    assert found.traffic <= traffic
    assert found.wavefronts == 0
    assert found.instructions <= instructions


@needs_emulator
@both_targets
@pytest.mark.parametrize(
    ("case", "traffic"),
    [
        (ApplyCase(1024, 1), 1.02),
        pytest.param(ApplyCase(1000, 1, torch.bfloat16), 1.02, marks=pytest.mark.slow),
        # every row reads the tap
        (ApplyCase(1024, 8, torch.bfloat16, last=False), 1.31),
    ],
    ids=str,
)
def test_apply_step_counters(case, traffic, capability):
    found = triton_counters.count_apply(case, capability, checks=True)
    print(found)
    assert found.error <= (1e-7 if case.dtype == torch.float32 else 2e-3)
    assert found.registers <= 48
    assert found.coalescing == 1
    assert found.distinct <= 1.001
    assert found.traffic <= traffic
    assert found.wavefronts == 0
    assert found.instructions <= 115
