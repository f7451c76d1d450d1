"""Compiled kernels of the fused token: resources and order of loads on four targets, and runs in a
PTX emulator. Nothing here needs a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable

import pytest
import torch

from tests.emulation import emulator
from tests.fast import combinations

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

from futurefill_kernels.nn.token.gpu_launches import TokenLaunches, ordinary
from tests.emulation import triton_compile, triton_counters
from tests.nn.token import gpu_cases as cases

BF16, F32 = torch.bfloat16, torch.float32

#: Kernels at the sizes of a model of 515 million parameters, of the shipped one, and of wide ones.
SHIPPED: dict[str, Callable[[TokenLaunches], cases.Case]] = {
    "STU mixer": lambda go: cases.norm_mixer_case(go, 1024, BF16, gated=False, skip=False),
    "STU mixer, embedding": lambda go: cases.norm_mixer_case(
        go, 1024, BF16, gated=False, skip=False, token=3
    ),
    "Hyena mixer": lambda go: cases.norm_mixer_case(go, 1024, BF16),
    "Hyena mixer, float32": lambda go: cases.norm_mixer_case(go, 192, F32),
    "Hyena mixer, wide": lambda go: cases.norm_mixer_case(go, 2560, BF16),
    "down": lambda go: cases.product_add_case(go, 1024, 12288, BF16, bias=False),
    "down, float32": lambda go: cases.product_add_case(go, 192, 512, F32, bias=False),
    "down, float32, long": lambda go: cases.product_add_case(go, 1000, 5000, F32),
    "up": lambda go: cases.norm_gate_case(go, 12288, 1024, BF16, "gelu"),
    "up, float32": lambda go: cases.norm_gate_case(go, 512, 192, F32),
    "up, float32, wide": lambda go: cases.norm_gate_case(go, 4096, 2048, F32),
    "logits": lambda go: cases.norm_logits_case(go, 20064, 1024, BF16),
    "logits, float32": lambda go: cases.norm_logits_case(go, 256, 192, F32),
    "greedy": lambda go: cases.greedy_case(go, 6252),
    "mixer": lambda go: cases.mixer_case(go, 1024, BF16, positions=(1, 2)),
    "mixer, no gates": lambda go: cases.mixer_case(
        go, 1024, BF16, gated=False, skip=False, positions=(1, 2)
    ),
    "add_norm": lambda go: cases.add_norm_case(go, 1024, 2, BF16),
    "add_norm, wide": lambda go: cases.add_norm_case(go, 8192, 2, F32),
    "embed_norm": lambda go: cases.embed_norm_case(go, 1024, [3], BF16),
    "gate": lambda go: cases.gate_case(go, 12288, 2, BF16),
}
#: Those that read activations alone.
WITHOUT_WEIGHTS = {"greedy", "gate"}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("capability", combinations(triton_compile.CAPABILITIES, fast={80}))
@pytest.mark.parametrize("name", SHIPPED)
def test_compiles_without_spills(name, capability):
    pdl = capability >= 90
    used = triton_compile.resources(SHIPPED[name](TokenLaunches(pdl)).launch, capability)
    print(used)
    assert used.stack == 0, "registers were spilled"
    # at least two programs of a launch's largest fit on a multiprocessor
    assert used.registers * 32 * used.warps <= 32768
    assert used.shared <= 16 << 10


@pytest.mark.parametrize("capability", combinations([90, 100, 120], fast={90}))
@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_loaded_before_the_wait(name, capability):
    """And nothing is stored; in PTX and in machine code."""
    launch = SHIPPED[name](TokenLaunches(pdl=True)).launch
    first = {"ptx": "ld.global", "machine": "LDG"}
    store = {"ptx": "st.global", "machine": "STG"}
    wait = {"ptx": r"griddepcontrol\.wait\b", "machine": r"\bACQBULK\b"}
    start = {"ptx": r"griddepcontrol\.launch_dependents\b", "machine": r"\bPREEXIT\b"}
    code = {
        "ptx": triton_compile.ptx(launch, capability),
        "machine": triton_compile.machine_code(launch, capability),
    }
    for kind, text in code.items():
        before, after = re.split(wait[kind], text)  # one wait
        assert store[kind] not in before
        assert (first[kind] in before) == (name not in WITHOUT_WEIGHTS)
        assert first[kind] in after
        beginning, _ = re.split(start[kind], before)  # the next kernel's start comes before it
        assert first[kind] not in beginning


def test_nothing_waits_without_dependent_launches():
    for make in SHIPPED.values():
        launch = make(TokenLaunches(pdl=False)).launch
        assert "launch_pdl" not in launch.options
        assert not launch.constants["PDL"]
    text = triton_compile.ptx(SHIPPED["down, float32"](TokenLaunches(False)).launch, 90)
    assert "griddepcontrol" not in text


def test_a_first_launch_is_ordinary_and_lets_the_next_start():
    launch = SHIPPED["down, float32"](TokenLaunches(pdl=True)).launch
    assert launch.options["launch_pdl"]
    first = ordinary(launch)
    assert "launch_pdl" not in first.options
    assert "griddepcontrol.launch_dependents" in triton_compile.ptx(first, 90)


@pytest.mark.skipif(emulator.unavailable() is not None, reason=str(emulator.unavailable()))
@pytest.mark.parametrize(
    ("dtype", "capability", "pdl"),
    [
        (F32, 80, False),
        pytest.param(BF16, 80, False, marks=pytest.mark.slow),
        pytest.param(F32, 90, True, marks=pytest.mark.slow),
        pytest.param(BF16, 90, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", cases.SMALL)
def test_emulated(name, dtype, capability, pdl):
    """Races, reads of what was not written, and bounds are checked."""
    case = cases.SMALL[name](TokenLaunches(pdl), dtype)
    triton_counters.emulate(case.launch, capability, checks=True)
    case.check(cases.TOLERANCE[dtype])
