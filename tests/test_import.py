"""The package without its compiled library: it imports, runs and says why."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from futurefill_kernels import native

ROOT = Path(__file__).parents[1]

SCRIPT = """
import pathlib, sys
glob = pathlib.Path.glob
pathlib.Path.glob = lambda self, pattern: [] if pattern.startswith("_C") else glob(self, pattern)
sys.modules["triton"] = None
import torch
import futurefill_kernels as ff
cache = ff.FutureFillCache(torch.ones(2, 5), 1, 8)
assert cache.impl == "reference", cache.impl
ys = [cache.step(torch.ones(1, 2)) for _ in range(8)]
assert torch.stack(ys)[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 5, 5, 5]
try:
    ff.FutureFillCache(torch.ones(2, 5), 1, 8, impl="cpu")
except RuntimeError as error:
    assert "impl='cpu' cannot run on cpu: " in str(error), error
else:
    raise AssertionError("impl='cpu' ran without its library")
from futurefill_kernels.cli.env import report
line = next(line for line in report().splitlines() if line.strip().startswith("cpu "))
assert "available" not in line.split()[1], line
"""


def test_runs_on_plain_torch_and_names_the_reason():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


OTHER_SOURCES = """
import sys, torch
import futurefill_kernels as ff
from futurefill_kernels.cli.env import report
cache = ff.FutureFillCache(torch.ones(2, 5), 1, 8)
assert cache.impl == "reference", cache.impl
assert cache.step(torch.ones(1, 2)).tolist() == [[1, 1]]
try:
    ff.FutureFillCache(torch.ones(2, 5), 1, 8, impl="cpu")
except RuntimeError as error:
    print(error)
assert "was built from other sources" in report()
"""


@pytest.mark.skipif(native.unavailable_reason is not None, reason="the kernels are not built")
@pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="not run from a source tree")
@pytest.mark.parametrize(
    ("file", "here", "changed", "lacks"),
    [
        ("csrc/bindings/schemas.cpp", "generate(", "generate_more(", "generate_more"),
        (
            "csrc/bindings/schemas.cpp",
            "tile_lanes(bool float64",
            "tile_lanes(bool half, bool float64",
            "tile_lanes(half, float64, channels)",
        ),
        ("futurefill_kernels/native.py", "futurefill_block", "futurefill_part", "futurefill_part"),
    ],
    ids=["op", "argument", "function"],
)
def test_a_library_of_other_sources_is_said(tmp_path, file, here, changed, lacks):
    """Its tree has one name that the library does not have."""
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "weights")
    shutil.copytree(native.library_file().parent, tmp_path / "futurefill_kernels", ignore=ignored)
    (tmp_path / "csrc" / "bindings").mkdir(parents=True)
    shutil.copy(ROOT / "csrc/bindings/schemas.cpp", tmp_path / "csrc/bindings")
    text = (tmp_path / file).read_text()
    assert here in text
    (tmp_path / file).write_text(text.replace(here, changed))
    for library in native.library_file().parent.glob("*.so"):
        (tmp_path / "futurefill_kernels" / library.name).symlink_to(library)
    done = subprocess.run(
        [sys.executable, "-c", OTHER_SOURCES], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("impl='cpu' cannot run on cpu: _C"), done.stdout
    assert f"other sources than those here: it has no {lacks}; build it again" in done.stdout
    assert f"python setup.py build_ext --inplace in {tmp_path}" in done.stdout


@pytest.mark.skipif(native.library_file() is None, reason="the kernels are not built")
def test_the_library_here_is_of_these_sources():
    """Else every test of compiled kernels would be skipped."""
    assert "other sources" not in str(native.unavailable_reason)


def test_import_costs_no_kernel_package():
    script = "import sys, futurefill_kernels; assert 'triton' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_model_on_one_device_needs_no_torch_distributed():
    script = """
import sys, torch
assert "torch.distributed.tensor" not in sys.modules
for name in ("torch.distributed.tensor", "torch.distributed.checkpoint"):
    sys.modules[name] = None
for name in ("all_reduce", "all_gather", "broadcast", "init_process_group"):
    vars(torch.distributed).pop(name, None)
torch.distributed.is_available = lambda: False
import futurefill_kernels as ff
from futurefill_kernels.__main__ import main
cache = ff.DecodingCache(ff.nn.Hyena(4, 8), 1, 4)
cache.load_state_dict(cache.state_dict())
assert main(["generate", "--tokens", "3", "--device", "cpu"]) == 0
assert main(["generate", "--tokens", "3", "--device", "cpu", "--tensor-parallel", "2"]) == 2
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--tensor-parallel needs torch.distributed, which this torch has not" in done.stderr
