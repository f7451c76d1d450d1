"""check-wheel: what the library holds, and what it misses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from futurefill_kernels import native
from futurefill_kernels.cli import check_wheel

NOT_BUILT = native.cuda_unavailable_reason()


@pytest.mark.skipif(NOT_BUILT is not None, reason=f"no CUDA kernels: {NOT_BUILT}")
def test_the_library_is_complete():
    architectures = native.cuda_architectures().partition(" and ")[0].replace("sm_", "")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "futurefill_kernels",
            "check-wheel",
            "--architectures",
            architectures.replace(" ", ""),
        ],
        capture_output=True,
        text=True,
    )
    if check_wheel.find_cuobjdump() is None:
        assert "no cuobjdump" in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == "complete"


@pytest.mark.skipif(NOT_BUILT is not None, reason=f"no CUDA kernels: {NOT_BUILT}")
def test_the_check_misses_an_architecture():
    if check_wheel.find_cuobjdump() is None:
        pytest.skip("no cuobjdump")
    assert "no code for sm_70" in check_wheel.problems({70})
