"""The package without its compiled library: it imports, runs and says why."""

from __future__ import annotations

import subprocess
import sys

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
