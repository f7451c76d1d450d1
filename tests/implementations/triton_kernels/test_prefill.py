"""Compiled Triton kernels around a prompt's transforms: resources, and counts in a PTX emulator."""

from __future__ import annotations

import importlib.util
import os
from functools import partial

import pytest
import torch

from tests.emulation import emulator, prompt_counters
from tests.emulation.cases import PREFILL_CASES, PrefillCase
from tests.fast import combinations
from tests.implementations.prompt_cases import DTYPES, INPUTS, OUTPUTS, check_inputs, check_outputs

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

from futurefill_kernels.implementations.triton_kernels import launch as launches
from tests.emulation import triton_compile, triton_counters

needs_emulator = pytest.mark.skipif(
    emulator.unavailable() is not None, reason=str(emulator.unavailable())
)
#: rows that do not start at a vector
SMALL = [case for case in PREFILL_CASES if case.positions % 16]


@pytest.mark.parametrize("capability", combinations(triton_compile.CAPABILITIES, fast={80}))
@pytest.mark.parametrize("case", combinations(PREFILL_CASES, fast=SMALL), ids=str)
def test_compiles_without_spills(case, capability):
    launch = triton_counters.prefill_of(case, *prompt_counters.arguments_of(case)[0])
    used = triton_compile.resources(launch, capability)
    print(used)
    assert used.stack == 0
    assert used.registers <= 128
    assert used.shared <= 16 << 10


def run(make, capability: int, *arguments) -> None:
    """An op's launch in the emulator."""
    triton_counters.emulate(make(*arguments), capability, True)


@needs_emulator
@pytest.mark.parametrize("capability", combinations([80, 90], fast={80}))
@pytest.mark.parametrize("dtype", combinations(DTYPES, fast={torch.bfloat16}))
def test_kernels_in_the_emulator(dtype, capability):
    """On the shapes of the interpreter's tests, with races and uninitialised reads checked."""
    for case in INPUTS:
        check_inputs(partial(run, launches.prefill_inputs_launch, capability), case, dtype)
    for number, case in enumerate(OUTPUTS):
        outputs = partial(run, launches.prefill_outputs_launch, capability)
        check_outputs(outputs, case, number % 2 == 0, dtype)


@needs_emulator
@pytest.mark.parametrize("capability", combinations([80, 90], fast={80}))
@pytest.mark.parametrize("case", combinations(PREFILL_CASES, fast=SMALL), ids=str)
def test_counters(case: PrefillCase, capability):
    """One pass over global memory; rows that start at a vector are read whole sectors at a time."""
    found = triton_counters.count_prefill(case, capability, checks=True)
    print(found)
    aligned = case.positions % 16 == 0
    assert found.error <= (2e-7 if case.dtype == DTYPES[0] else 4e-3)
    assert found.distinct <= 1.01
    assert found.coalescing <= (1.0 if aligned else 1.36)
    assert found.traffic <= (1.05 if aligned else 1.44)
    assert found.conflicts <= 1.1
