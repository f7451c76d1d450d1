"""Kernels compiled ahead are those that a stream launches, with a driver that only names sm_80."""

from __future__ import annotations

import importlib.util
import itertools
import os
from types import SimpleNamespace

import pytest
import torch

from futurefill_kernels import DeviceInfo, Plan

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from futurefill_kernels.implementations import triton as implementation
from futurefill_kernels.implementations.triton_kernels import ops
from futurefill_kernels.implementations.triton_kernels.ahead import stream_launches
from futurefill_kernels.implementations.triton_kernels.sizes import StreamSizes
from futurefill_kernels.state.tensors import allocate


@pytest.fixture
def compiled(monkeypatch):
    """Every kernel that would be compiled, as Triton's disk cache tells them apart."""
    found: list[str] = []
    driver = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 80, 32),
    )
    monkeypatch.setattr(type(triton.runtime.driver), "active", driver)

    def compile(self, key, signature, device, constexprs, options, attrs, warmup):
        found.append(f"{self.ASTSource(self, signature, constexprs, attrs).hash()} {options}")

    monkeypatch.setattr(JITFunction, "_do_compile", compile)
    return found


@pytest.mark.parametrize(("channels", "groups", "layers"), [(40, 40, 2), (64, 8, 1)])
def test_they_are_the_streams(monkeypatch, compiled, channels, groups, layers):
    """Steps, fills of one launch with and without kept spectra, and of three."""
    monkeypatch.setattr(ops, "interpreted", lambda: True)  # accepts tensors on the CPU
    monkeypatch.setattr(implementation, "_missing", lambda: None)
    plan = Plan(3 * 8192, (16, 32, 1024, 8192))
    sizes = StreamSizes(plan, channels, groups, layers, 2)
    info = DeviceInfo.named("a100")
    ahead = stream_launches(sizes, info)
    assert list(ahead) == sizes.step_names + [sizes.fill_name(level) for level in plan.levels]
    for launch in itertools.chain(*ahead.values()):
        launch.compile()
    expected = set(compiled)
    assert len(expected) == len(ahead) + 2 == 11
    compiled.clear()

    layout = implementation.make_layout(channels, groups, torch.float32, plan)
    h = torch.ones(groups, 64)
    state = allocate(
        plan, layout,
        lambda *arguments: torch.zeros(1, plan.spectra_rows, 2, layout.filter_lanes),
        [h] * layers, 2, None,
    )  # fmt: skip
    u = torch.zeros(2, channels)
    history, step = implementation.make_history(state), implementation.make_step(state)
    history(None)
    for gate in (None, u):
        step(u, gate, gate, torch.empty_like(u), None, 0, False)
        step(u, gate, gate, torch.empty_like(u), None, layers - 1, True)
    for level in plan.levels:
        state.positions.fill_(level.block)
        implementation.fill(state, level, None)
    assert set(compiled) == expected
