"""The CUDA kernels around a prompt's transforms, in the PTX emulator, against plain torch."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.emulation import cuda_counters, emulator
from tests.emulation.cases import PREFILL_CASES
from tests.emulation.cuda_rig import run_inputs, run_outputs
from tests.fast import combinations
from tests.implementations.cuda_pairs import needs_emulator
from tests.implementations.prompt_cases import (
    DTYPES,
    INPUTS,
    OUTPUTS,
    check_inputs,
    check_outputs,
    signal,
)

pytestmark = needs_emulator


@pytest.mark.parametrize(
    ("case", "dtype", "arch"),
    combinations(
        INPUTS, DTYPES, ["sm_80", "sm_90"],
        fast=[
            *((case, torch.float32, "sm_80") for case in INPUTS),
            (INPUTS[1], torch.bfloat16, "sm_80"),
        ],
    ),
    ids=str,
)  # fmt: skip
def test_inputs(case, dtype, arch):
    check_inputs(partial(run_inputs, arch=arch), case, dtype)


@pytest.mark.parametrize(
    ("case", "continued", "dtype"),
    combinations(
        OUTPUTS, [False, True], DTYPES,
        fast=[
            *((case, True, torch.float32) for case in OUTPUTS),
            (OUTPUTS[1], True, torch.bfloat16),
        ],
    ),
    ids=str,
)  # fmt: skip
def test_outputs(case, continued, dtype):
    arch = "sm_80" if continued else "sm_90"
    check_outputs(partial(run_outputs, arch=arch), case, continued, dtype)


@pytest.mark.parametrize(
    ("case", "ring_dtype", "dtype"),
    combinations(
        OUTPUTS, [torch.bfloat16, torch.float16], DTYPES,
        fast=[(OUTPUTS[1], torch.float16, torch.float32), (OUTPUTS[3], torch.bfloat16, DTYPES[1])],
    ),
    ids=str,
)  # fmt: skip
def test_outputs_for_a_ring_in_16_bits(case, ring_dtype, dtype):
    """Its future fill, and the prompts' fill beside it, are rounded once."""
    check_outputs(partial(run_outputs, arch="sm_80"), case, True, dtype, ring_dtype)


@pytest.mark.parametrize(
    ("text", "replacement"),
    [("  __syncthreads();\n", ""), ("t < start + positions;", "t <= start + positions;")],
)
def test_planted_faults(text, replacement):
    """A missing barrier, and one position too many."""
    u = signal(1, 32, 64)
    state = torch.zeros(1, 1, 1, 64, 32)
    one = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(emulator.load().EmuError):
        run_outputs(
            *(signal(1, 32, 128), u, None, None, None, torch.empty_like(u), state, state.clone()),
            *(one, None, one + 64, 0, 0),
            edits=(("prefill.cuh", text, replacement),),
        )


@pytest.mark.parametrize("case", combinations(PREFILL_CASES, fast=PREFILL_CASES[-2:]), ids=str)
def test_counters(case):
    """One pass over global memory, and no bank conflicts."""
    found = cuda_counters.count_prefill(case, checks=True, compiled=False)
    print(found)
    aligned = case.positions % 16 == 0
    assert found.error <= (2e-7 if case.dtype == torch.float32 else 4e-3)
    assert found.distinct <= 1.01
    assert found.conflicts <= 1
    # every warp reads where its row begins and ends; rows of odd lengths begin inside a sector
    assert found.traffic <= (1.07 if aligned else 1.44)
