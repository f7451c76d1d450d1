"""The ops refuse tensors that no kernel of theirs can take."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's interpreter is on")
def test_ops_refuse_cpu_tensors():
    state = torch.zeros(1, 1, 1, 8, 32)
    arguments = (torch.zeros(1, 5), None, None, torch.zeros(1, 5), state, state[0], None)
    with pytest.raises(RuntimeError, match="triton kernels run on a CUDA device, not on cpu"):
        torch.ops.futurefill_kernels.triton_short_range_step(
            *arguments, torch.zeros(1, dtype=torch.int64), None, 0, True, 1
        )
