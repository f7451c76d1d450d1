"""Launches of the fused token in Triton's interpreter against torch.

TRITON_INTERPRET must be set before Triton is imported, so the files of this folder are test runs of
their own, which tests/nn/token/test_gpu.py starts.
"""

from __future__ import annotations

import os

import pytest
import torch

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("runs with TRITON_INTERPRET=1, see test_gpu.py", allow_module_level=True)

from futurefill_kernels.nn.token import gpu_config
from futurefill_kernels.nn.token.gpu_launches import TokenLaunches
from tests.nn.token import gpu_cases as cases

F32, BF16 = torch.float32, torch.bfloat16
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GO = TokenLaunches(pdl=False)


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch):
    """Few programs of several rows each: the interpreter's time goes by their number."""
    monkeypatch.setattr(gpu_config, "PROGRAMS", 3)
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def run(case):
    case.launch.run()
    return case


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", cases.SMALL)
def test_every_kernel(name, dtype):
    run(cases.SMALL[name](GO, dtype)).check(cases.TOLERANCE[dtype])


#: Launches of odd sizes, and what a stream or an id may ask for.
MORE = {
    "one output": lambda: cases.norm_gate_case(GO, 1, 1, F32),
    "one channel": lambda: cases.norm_mixer_case(GO, 1, F32, taps=2),
    "one tap": lambda: cases.norm_mixer_case(GO, 5, F32, taps=1),
    "four taps": lambda: cases.norm_mixer_case(GO, 5, BF16, taps=4, position=0),
    "five taps": lambda: cases.mixer_case(GO, 300, F32, taps=5, positions=(0, 8), layer=0),
    "one tap of rows": lambda: cases.mixer_case(GO, 3, F32, taps=1, positions=(0, 1)),
    "the last position": lambda: cases.norm_mixer_case(GO, 9, F32, position=8),
    "after the last position": lambda: cases.norm_mixer_case(GO, 9, F32, position=9),
    "no token begun": lambda: cases.norm_mixer_case(GO, 9, F32, position=-1),
    "after the last position, no gates": lambda: cases.norm_mixer_case(
        GO, 9, F32, position=9, gated=False
    ),
    "a first layer": lambda: cases.norm_mixer_case(GO, 9, F32, layer=0, token=4, skip=False),
    "an id too large": lambda: cases.norm_mixer_case(GO, 9, F32, token=11),
    "an id too large, no gates": lambda: cases.norm_mixer_case(
        GO, 9, F32, token=12, gated=False, bias=False
    ),
    "ids outside": lambda: cases.embed_norm_case(GO, 1030, [-1, 10, 11], F32),
    "a wide gate": lambda: cases.gate_case(GO, 513, 2, F32),
    "a wide row": lambda: cases.add_norm_case(GO, 1030, 1, BF16),
    "a few programs of logits": lambda: cases.greedy_case(GO, 1),
    "many programs of logits": lambda: cases.greedy_case(GO, 5000),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_odd_sizes(name):
    case = run(MORE[name]())
    case.check(cases.tolerance(case))


#: Products whose columns are several tiles.
TILES = {
    "mixer": lambda: cases.norm_mixer_case(GO, 50, F32),
    "mixer, embedding": lambda: cases.norm_mixer_case(GO, 33, BF16, token=1),
    "mixer, no gates": lambda: cases.norm_mixer_case(GO, 50, BF16, gated=False, skip=False),
    "gate": lambda: cases.norm_gate_case(GO, 20, 33, F32, "gelu"),
    "logits": lambda: cases.norm_logits_case(GO, 50, 70, BF16),
    "residual": lambda: cases.product_add_case(GO, 7, 100, F32, bias=False),
}


@pytest.mark.parametrize("name", TILES)
def test_several_tiles(name, monkeypatch):
    monkeypatch.setattr(gpu_config, "TILE", 16)
    case = run(TILES[name]())
    assert case.launch.constants["TILE"] == 16
    case.check(cases.tolerance(case))


def test_logits_that_are_no_numbers_count_as_infinite():
    case = cases.norm_logits_case(GO, 300, 4, F32)
    case.launch.arguments[0][0] = float("nan")
    case.launch.run()
    assert bool((case.expected["best"][0] == float("inf")).all())
    token = torch.tensor([-1])
    GO.greedy(*case.launch.arguments[4:6], token).run()
    assert token.tolist() == [0]


@pytest.mark.parametrize("seed", range(4))
def test_greedy_is_argmax(seed):
    """Of logits with equal largest values."""
    torch.manual_seed(seed)
    case = cases.norm_logits_case(GO, 260, 3, BF16)
    weight = case.launch.arguments[2]
    weight.copy_(weight[torch.randint(5, (260,))])
    case.launch.run()
    token = torch.tensor([-1])
    GO.greedy(*case.launch.arguments[4:6], token).run()
    logits = case.launch.arguments[3]
    assert int((logits == logits.max()).sum()) > 1
    assert token.tolist() == [int(logits.argmax())]
