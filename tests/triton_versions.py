"""``python -m tests.triton_versions``: what another version of Triton makes of the kernels.

Each version is installed into a folder of its own, that goes before the installed one's, and the
tests that compile kernels run with it: layouts of accesses, registers and spills, how many kernels
a stream compiles. Nothing else is installed, and nothing needs a GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

from futurefill_kernels.implementations.triton import TESTED

TESTS = "tests/implementations/triton_kernels"
COMPILED = (f"{TESTS}/test_layouts.py", f"{TESTS}/test_ahead.py", f"{TESTS}/test_compiled.py")


def others() -> list[str]:
    """Every version of the tested range but the installed one, each the newest of its number."""
    (major, oldest), (_, newest) = TESTED
    found = [f"{major}.{minor}" for minor in range(oldest, newest + 1)]
    return [f"{name}.*" for name in found if not version("triton").startswith(f"{name}.")]


def check(wanted: str) -> bool:
    """Whether the tests pass with a version; prints which one it was."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--target", folder, f"triton=={wanted}"], check=True)
        environment = {**os.environ, "PYTHONPATH": folder, "TRITON_CACHE_DIR": f"{folder}/cache"}
        shown = "import triton; print(triton.__version__, triton.__file__)"
        command = [sys.executable, "-c", shown]
        found = subprocess.check_output(command, env=environment, text=True).split()
        if not found[1].startswith(folder):
            raise RuntimeError(f"expected Triton from {folder}, got {found[1]}")
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *COMPILED]
        chosen = ["-k", "test_layouts or test_ahead or spills"]
        passed = subprocess.run([*pytest, *chosen], env=environment, check=False).returncode == 0
    seconds = time.perf_counter() - start
    print(f"Triton {found[0]}: {'passed' if passed else 'FAILED'}, {seconds:.0f} s", flush=True)
    return passed


def main() -> None:
    """Exits with 1 where a version fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.triton_versions", description=__doc__)
    parser.add_argument("versions", nargs="*", help="such as 3.6.0; default: the tested range")
    named = parser.parse_args().versions or others()
    results = [check(wanted) for wanted in named]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
