"""The ops refuse tensors that no kernel of theirs can take."""

from __future__ import annotations

import contextlib
import importlib.util
import os

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's interpreter is on")
def test_ops_refuse_cpu_tensors():
    state = torch.zeros(1, 1, 1, 8, 32)
    row, sums, at = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1, 32), torch.zeros(1, 1)
    stream = (state, state[:, :, :, :0], state[0], row, None, at.long(), sums[None], sums)
    message = "triton kernels run on a CUDA device, not on cpu"
    with pytest.raises(RuntimeError, match=message):
        torch.ops.futurefill_kernels.triton_history(*stream, 1)
    u = torch.zeros(1, 5)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.futurefill_kernels.triton_apply_step(
            u,
            None,
            None,
            u,
            state,
            state[:, :, :, :0],
            state[0],
            None,
            sums,
            at.long(),
            row,
            None,
            0,
            True,
            1,
        )


def test_a_launch_is_on_the_device_of_its_tensors(monkeypatch):
    """Triton launches on the current device, whatever the tensors' is."""
    from futurefill_kernels.implementations.triton_kernels.launch import Launch

    current, launched = [0], []

    class Tensor:
        def __init__(self, index):
            self.get_device = lambda: index

    class Kernel:
        def __getitem__(self, grid):
            return lambda x: launched.append((x.get_device(), current[0]))

    @contextlib.contextmanager
    def device(index):
        before, current[0] = current[0], index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device", device)
    for index in (0, 1):
        Launch(Kernel(), (1,), (Tensor(index),), {}, {}).run()
    assert launched == [(0, 0), (1, 1)]
    assert current == [0]
