"""impl="triton" on any machine: refusals, and its kernels interpreted.

triton_kernels/test_compiled.py has what the compiler makes of the kernels.
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
from futurefill_kernels import Plan
from futurefill_kernels.implementations import triton
from tests.emulation import cuda_compile

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


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


#: Runs of about equal length, the longest first: a file, and the tests of it.
RUNS = (
    ("test_fills.py", ""),
    ("test_kernels.py", "not test_history"),
    ("test_kernels.py", "test_history"),
    ("test_streams.py", ""),
    ("test_prompts.py", ""),
    ("test_mixed.py", ""),
)
WITHOUT_SLOW_TESTS = {"test_mixed.py"}
NEED_EMULATED_CUDA = {"test_mixed.py"}


@needs_triton
@pytest.mark.parametrize("selection", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_kernels_in_the_interpreter(selection, tmp_path):
    """The cases of interpreted/, in processes with TRITON_INTERPRET=1."""
    folder = Path(__file__).parent / "interpreted"
    assert {file for file, _ in RUNS} == {path.name for path in folder.glob("test_*.py")}
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "TRITON_CACHE_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }

    def run(part: tuple[str, str]) -> subprocess.CompletedProcess[str]:
        file, names = part
        options = ["-q", "-p", "no:cacheprovider", "-m", selection, "-k", names]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(folder / file)],
            cwd=folder.parents[2],
            env=environment,
            capture_output=True,
            text=True,
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (file, _), done in zip(RUNS, pool.map(run, RUNS), strict=True):
            if selection == "slow" and file in WITHOUT_SLOW_TESTS:
                assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout[-5000:]
            else:
                assert done.returncode == 0, done.stdout[-5000:]
                skipped = file in NEED_EMULATED_CUDA and cuda_compile.unavailable()
                assert (f"no CUDA emulation: {skipped}" if skipped else " passed") in done.stdout
