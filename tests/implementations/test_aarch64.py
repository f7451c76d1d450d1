"""The CPU kernels on 64-bit ARM: cross-compiled to NEON as the build does it, run in an emulator.

On such a machine all tests of the kernels run by themselves.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREFIX = "aarch64-linux-gnu-"
#: What setup.py compiles a portable kernel with.
FLAGS = ("-O3", "-std=c++17", "-Wno-psabi", "-DFF_ISA=portable", "-DFF_VECTOR_BYTES=16")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="not run from a source tree"),
    pytest.mark.skipif(
        platform.machine() == "aarch64", reason="this machine runs the kernels' own tests"
    ),
    pytest.mark.skipif(
        shutil.which(f"{PREFIX}g++") is None,
        reason=f"needs {PREFIX}g++ (Debian: apt-get install g++-aarch64-linux-gnu)",
    ),
]


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """All of the engine but the choice of an instruction set."""
    folder = tmp_path_factory.mktemp("aarch64")
    for source in (ROOT / "csrc" / "cpu").glob("*.cpp"):
        if source.stem != "dispatch":
            built = folder / f"{source.stem}.o"
            subprocess.run([f"{PREFIX}g++", *FLAGS, "-c", source, "-o", built], check=True)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("name", ["short_range_step", "future_fill", "offline_conv", "dense"])
def test_kernels_are_neon(objects, name):
    (built,) = (path for path in objects if path.stem == name)
    command = [f"{PREFIX}objdump", "--disassemble", "--no-show-raw-insn", built]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    vector = [line for line in code.splitlines() if "fmla" in line and ".4s" in line]
    assert len(vector) > 10


@pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None,
    reason="needs qemu-aarch64 (Debian: apt-get install qemu-user)",
)
def test_streams_fills_and_convolutions(objects, tmp_path):
    """The driver compares with plain loops and fails where they differ."""
    program = tmp_path / "driver"
    # -O1: at -O3 GCC 12 ends in an internal error at the driver's own loops
    flags = [*FLAGS, "-O1", "-static", "-pthread", "-I", ROOT / "csrc" / "cpu"]
    driver = ROOT / "tests" / "implementations" / "cpu_driver.cpp"
    subprocess.run([f"{PREFIX}g++", *flags, driver, *objects, "-o", program], check=True)
    done = subprocess.run(["qemu-aarch64", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "largest error" in done.stdout
