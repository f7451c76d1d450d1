"""Fused tokens on a GPU: what refuses them, and their kernels in Triton's interpreter.

triton_kernels/test_compiled.py has what the compiler makes of the kernels.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from futurefill_kernels import DecodingCache
from futurefill_kernels.nn import LanguageModel
from futurefill_kernels.nn.token import cpu, gpu

from .models import CONFIGS, make_model

DTYPES = "parameters that are not all float32, all bfloat16 or all float16"
#: What stands against any model here, where no GPU is.
HERE = ["impl='reference'", "runs on a CUDA device, not on cpu"]


def reasons(model):
    return gpu.cannot_fuse(
        model, DecodingCache(make_model(CONFIGS[0]), 1, 4, impl="reference").caches
    )


def test_a_device_and_an_implementation_are_all_that_is_missing_here():
    for config in CONFIGS:
        assert reasons(make_model(config)) == HERE
        assert reasons(make_model(config).bfloat16()) == HERE
        assert reasons(make_model(config).half()) == HERE
    assert reasons(make_model(CONFIGS[0], short_taps=1)) == HERE


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    missing = "Triton is not installed; pip install 'futurefill_kernels[gpu]'"
    assert reasons(make_model(CONFIGS[0])) == [HERE[0], missing, HERE[1]]


def linear(*sizes, bias=False):
    return nn.Linear(*sizes, bias=bias).requires_grad_(False)


def transposed(model):
    down = model.blocks[0].mlp.down
    down.weight = nn.Parameter(down.weight.T.contiguous().T, requires_grad=False)


@pytest.mark.parametrize(
    ("config", "change", "reason"),
    [
        (0, lambda m: m.double(), DTYPES),
        (0, lambda m: m.norm.bfloat16(), DTYPES),
        (0, lambda m: m.norm.to("meta"), "parameters that are not on cpu"),
        (0, transposed, "parameters that are not contiguous"),
        (
            0, lambda m: setattr(m, "norm", nn.Identity()),
            "norm is torch.nn.modules.linear.Identity, not RMSNorm",
        ),
        (
            0, lambda m: m.norm.register_forward_hook(lambda *_: None),
            "norm has forward hooks or a forward of its own",
        ),
        (
            0, lambda m: setattr(m.blocks[1].mlp, "gate_up", linear(24, 80, bias=True)),
            "blocks.1.mlp.gate_up has a bias",
        ),
        (
            0, lambda m: setattr(m.blocks[1].mlp, "activation", "tanh"),
            "blocks.1.mlp has the activation 'tanh'",
        ),
        (
            0, lambda m: setattr(m.blocks[0].mixer, "out_proj", linear(24, 1)),
            "the weight of blocks.0.mixer.out_proj is (1, 24), not (24, 24)",
        ),
        (
            0, lambda m: setattr(m.blocks[0].mlp, "gate_up", linear(24, 82)),
            "the weight of blocks.0.mlp.gate_up is (82, 24), not (80, 24)",
        ),
        (
            3, lambda m: setattr(m.blocks[2].mixer, "proj", linear(24, 1)),
            "the weight of blocks.2.mixer.proj is (1, 24), not (24, 24)",
        ),
        (
            3, lambda m: setattr(m.blocks[0].mixer, "tensorised", False),
            "blocks.0.mixer is not tensorised",
        ),
    ],
)  # fmt: skip
def test_what_is_not_fused_says_why(config, change, reason):
    model = make_model(CONFIGS[config])
    change(model)
    assert reasons(model) == [reason, *HERE]


def test_other_models_and_mixers_are_never_fused():
    class Other(LanguageModel):
        pass

    assert reasons(Other(CONFIGS[0]))[0] == "Other is not an ff.nn.LanguageModel"
    assert reasons(make_model(CONFIGS[0], order=3))[0] == "blocks.0.mixer is of order 3, not 2"
    full = LanguageModel(replace(CONFIGS[3], tensorised=False))
    assert "SpectralBank, not SpectralFilter" in reasons(full)[0]


def test_the_device_chooses():
    """Here the CPU's, whose reasons are not those of a GPU."""
    model = make_model(CONFIGS[0])
    cache = DecodingCache(model, 1, 4, impl="reference")
    assert cache.fused is None
    assert cache.not_fused == cpu.cannot_fuse(model, cache.caches) == HERE[:1]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("selection", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", ["test_gpu.py", "test_gpu_launches.py"])
def test_kernels_in_the_interpreter(file, selection, tmp_path):
    """The cases of interpreted/, in processes with TRITON_INTERPRET=1."""
    folder = Path(__file__).parent / "interpreted"
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "TRITON_CACHE_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", selection,
         str(folder / file)],
        cwd=folder.parents[3], env=environment, capture_output=True, text=True,
    )  # fmt: skip
    nothing = done.returncode == 5 and selection == "slow"  # no slow cases in the file
    assert done.returncode == 0 or nothing, done.stdout[-5000:]
    assert nothing or " passed" in done.stdout
