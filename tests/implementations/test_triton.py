"""impl="triton" on any machine: launch configurations, refusals, and its kernels interpreted.

tests/test_triton_compiled.py has what the compiler makes of the kernels.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import DeviceInfo, Plan
from futurefill_kernels.implementations import triton
from futurefill_kernels.implementations.triton_kernels.config import (
    FillConfig,
    StepConfig,
    fill_config,
    step_config,
)

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@pytest.mark.parametrize(
    ("device", "block", "channels", "rows", "last", "expected"),
    [
        ("a100", 64, 1024, 1, False, StepConfig(8, 1, 64, 1)),  # 128 programs
        ("a100", 64, 1024, 1, True, StepConfig(64, 1, 64, 8)),  # 16 count the position
        ("a100", 64, 1024, 8, True, StepConfig(8, 4, 32)),  # 256 programs for 108 SMs
        ("h100", 64, 1024, 4, False, StepConfig(8, 2, 64)),  # 4 rows together: 128 < 132 SMs
        ("h100", 64, 1024, 8, False, StepConfig(8, 4, 32)),
        ("h100", 16, 256, 8, True, StepConfig(8, 1, 16)),
        ("h100", 16, 256, 64, True, StepConfig(8, 4, 16)),
        ("l4", 16, 768, 3, False, StepConfig(8, 4, 16)),
        ("l4", 16, 64, 3, False, StepConfig(8, 1, 16)),
        ("b200", 1, 4096, 2, True, StepConfig(8, 2, 1)),
        ("b200", 96, 1, 1, True, StepConfig(64, 1, 64, 8)),
        ("h200", 24, 7, 1, True, StepConfig(64, 1, 32, 8)),
        ("h200", 5, 512, 1, True, StepConfig(64, 1, 8, 4)),
        ("h200", 5, 512, 1, False, StepConfig(16, 1, 8, 1)),
        ("h100", 2, 512, 1, False, StepConfig(64, 1, 2, 1)),
    ],
)
def test_step_configuration(device, block, channels, rows, last, expected):
    assert step_config(block, channels, rows, DeviceInfo.named(device), last) == expected


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (1, FillConfig(1, 32, 1, 128)),
        (8, FillConfig(1, 32, 1, 128)),
        (16, FillConfig(1, 16, 1, 128)),
        (32, FillConfig(1, 8, 1, 128)),
        (64, FillConfig(1, 8, 2, 128)),
        (128, FillConfig(1, 8, 4, 128)),
        (256, FillConfig(1, 8, 8, 128)),
        (512, FillConfig(2, 8, 8, 160)),
        (1024, FillConfig(4, 8, 8, 200)),
        (2048, FillConfig(8, 8, 8, 255)),
        (4096, None),
    ],
)
@pytest.mark.parametrize("device", ["a100", "h100", "h200", "b200", "l4", "rtx4090"])
def test_fill_configuration(device, transform, expected):
    assert fill_config(transform, DeviceInfo.named(device)) == expected


def test_ragged_blocks_have_a_lower_limit():
    info = DeviceInfo.named("h100")
    assert fill_config(256, info, ragged=True) == fill_config(256, info)
    assert fill_config(1024, info, ragged=True) == FillConfig(4, 8, 8, 255)
    assert fill_config(2048, info, ragged=True) is None


@needs_triton
def test_refusals_have_reasons():
    cpu, plan = torch.device("cpu"), Plan(1 << 31, (16,))
    assert triton.cannot_run(cpu, torch.float32, None) == ["runs on a CUDA device, not on cpu"]
    reasons = triton.cannot_run(cpu, torch.float64, plan)
    assert reasons[1:] == [
        "computes in float32, not in float64",
        f"holds positions in 31 bits, the plan's length is {1 << 31}",
    ]
    with pytest.raises(RuntimeError, match="impl='triton' cannot run on cpu: runs on a CUDA"):
        ff.FutureFillCache(torch.ones(2, 5), 1, 8, impl="triton")


def test_an_old_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    reasons = triton.cannot_run(torch.device("cuda", 0), torch.float32, None)
    assert reasons[-1] == "needs compute capability 8.0 or newer, cuda:0 has 7.5"


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    reasons = triton.cannot_run(torch.device("cpu"), torch.float32, None)
    assert reasons[0] == "Triton is not installed; pip install 'futurefill_kernels[gpu]'"


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's interpreter is on")
def test_ops_refuse_cpu_tensors():
    state = torch.zeros(1, 1, 1, 8, 32)
    arguments = (torch.zeros(1, 5), None, None, torch.zeros(1, 5), state, state[0], None)
    with pytest.raises(RuntimeError, match="triton kernels run on a CUDA device, not on cpu"):
        torch.ops.futurefill_kernels.triton_short_range_step(
            *arguments, torch.zeros(1, dtype=torch.int64), None, 0, True, 1
        )


@needs_triton
def test_kernels_in_the_interpreter(tmp_path):
    """Every case of interpreted/, in processes with TRITON_INTERPRET=1."""
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "TRITON_CACHE_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    files = sorted((Path(__file__).parent / "interpreted").glob("[a-z]*.py"))
    assert len(files) == 3

    def run(file: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
            cwd=file.parents[3],
            env=environment,
            capture_output=True,
            text=True,
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(run, files):
            assert done.returncode == 0, done.stdout[-5000:]
