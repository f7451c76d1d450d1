"""Triton's kernels around a prompt's transforms, in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

from tests.implementations.prompt_cases import (
    DTYPES,
    INPUTS,
    OUTPUTS,
    check_inputs,
    check_outputs,
    check_prompts,
    signal,
)

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("runs with TRITON_INTERPRET=1, see test_triton.py", allow_module_level=True)

OPS = torch.ops.futurefill_kernels


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", INPUTS)
def test_inputs(case, dtype):
    check_inputs(OPS.triton_prefill_inputs, case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs(case, continued, dtype):
    # the interpreter rounds float16 as GPUs do
    ring_dtype = torch.float16 if dtype == torch.float16 else torch.float32
    check_outputs(OPS.triton_prefill_outputs, case, continued, dtype, ring_dtype)


@pytest.mark.parametrize(
    ("channels", "groups", "dtype"),
    [
        (1, 1, torch.float16),
        pytest.param(6, 2, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(40, 40, torch.float32, marks=pytest.mark.slow),
    ],
)
def test_prompts(channels, groups, dtype):
    check_prompts("triton", dtype, channels, groups)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [5, 6])
def test_prompts_of_a_state_of_16_bits(channels):
    check_prompts("triton", torch.float32, channels, channels, torch.float16)


def _outputs() -> dict:
    """Arguments of triton_prefill_outputs that fit."""
    u, state, row = signal(2, 3, 5), torch.zeros(1, 2, 1, 4, 32), torch.arange(2)
    return {
        "z": signal(2, 3, 16), "u": u, "pre": None, "post": None, "skip": None, "y": u.clone(),
        "prompt_fill": state, "ring": state.clone(), "rows": row, "starts": None, "ends": row + 5,
        "layer": 0, "first_channel": 0,
    }  # fmt: skip


def test_opcheck_and_compile():
    u = signal(2, 3, 5)
    inputs = (u, u.clone(), torch.tensor([5, 2]), torch.zeros(2, 3, 16), torch.zeros(2, 3, 5))
    torch.library.opcheck(OPS.triton_prefill_inputs.default, inputs)
    torch.library.opcheck(OPS.triton_prefill_outputs.default, tuple(_outputs().values()))

    def run(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        OPS.triton_prefill_inputs(2 * u, None, None, x, None)
        return x + 1

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(u, torch.zeros(2, 3, 8)), run(u, torch.zeros(2, 3, 8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": signal(2, 3, 8)}, r"expected z \(2, 3, 9 or more\)"),
        ({"y": signal(2, 3, 4)}, r"expected y \(R, C, P\) = \(2, 3, 5\)"),
        ({"pre": signal(2, 3, 5).half()}, "expected pre of dtype torch.float32"),
        ({"ring": torch.zeros(1, 2, 1, 3, 32)}, "expected ring of the sizes of prompt_fill"),
        ({"rows": torch.arange(3)}, "expected rows of 2 rows"),
        ({"layer": 1}, r"expected layer in 0 \.\. 0"),
        ({"first_channel": 30}, r"expected first_channel in 0 \.\. 29"),
        ({"skip": torch.zeros(1, 3)}, r"expected skip \(1, 32\)"),
    ],
)
def test_wrong_arguments_change_nothing(change, message):
    arguments = _outputs() | change
    before = [x.clone() for x in arguments.values() if isinstance(x, torch.Tensor)]
    with pytest.raises(ValueError, match=message):
        OPS.triton_prefill_outputs(*arguments.values())
    after = [x for x in arguments.values() if isinstance(x, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
