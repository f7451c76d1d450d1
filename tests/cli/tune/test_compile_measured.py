"""What is compiled before kernels are measured is all that measuring would compile."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

from futurefill_kernels import DeviceInfo
from futurefill_kernels.cli.tune import compile_measured, measure_kernels
from futurefill_kernels.implementations import triton
from futurefill_kernels.implementations.triton_kernels import ops
from tests.implementations.triton_kernels.test_ahead import compiled

__all__ = ["compiled"]

CPU, INFO = torch.device("cpu"), DeviceInfo.named("a100")


class Once:
    """In place of the clock: a call, timed by nobody."""

    device = CPU

    def seconds(self, call, before=None):
        (before or (lambda: None))()
        call()
        return 1.0


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(ops, "interpreted", lambda: True)  # accepts tensors on the CPU
    monkeypatch.setattr(triton, "_missing", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())


def test_they_are_what_is_measured(compiled):
    sizes = measure_kernels.Sizes(
        channels=64, steps=((64, 24, 1), (64, 24, 8), (16, 24, 1)),
        fills=((64, 24, 1), (512, 2, 1), (512, 2, 8), (8192, 1, 1), (16, 2, 2)),
    )  # fmt: skip
    found = compile_measured.jobs(CPU, INFO, sizes)
    assert [job.names[0] for job in found] == [
        "fill of 8192", "fill of 512", "fill of 64", "fill of 16", "history", "history"
    ]  # fmt: skip
    assert pickle.loads(pickle.dumps(found)) == found
    assert sum(job.run() for job in found) == 3 + 3 + 2 * 3
    expected = set(compiled)
    compiled.clear()
    for size in sizes.steps:
        measure_kernels._steps(Once(), triton, sizes.channels, *size)
    for size in sizes.fills:
        measure_kernels._fill(Once(), triton, sizes.channels, *size)
    assert set(compiled) == expected


def test_it_says_how_long_it_took(monkeypatch):
    monkeypatch.setattr(compile_measured.DeviceInfo, "of", classmethod(lambda cls, device: INFO))
    monkeypatch.setattr(compile_measured, "_compile", lambda jobs: (len(jobs), 2))
    sizes = measure_kernels.Sizes(steps=((64, 24, 1),), fills=((64, 24, 1),))
    text = compile_measured.compile_measured(CPU, sizes)
    assert text.startswith("2 Triton kernels compiled in 0.0 s, 2 at a time")
