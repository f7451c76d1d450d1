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
from futurefill_kernels.implementations.triton_kernels.config import long_config
from futurefill_kernels.implementations.triton_kernels.launch import Fill
from futurefill_kernels.implementations.triton_kernels.long_launch import long_launches
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


@pytest.mark.parametrize("block", [8192, 12000, 16384, 65536])
def test_a_long_fill_is_compiled_for_all_rows_and_for_listed_ones(compiled, block):
    """Whatever their number, layers and channels in a share: that of the workspace."""
    plan, layers, lanes = Plan(2 * block, (block,)), 8, 1024
    level = plan.levels[0]
    config = long_config(level.transform, DeviceInfo.named("h100"), level.kept > 0)
    named = [(batch, None) for batch in (1, 2, 64)] + [(64, n) for n in (1, 2, 3, 5, 8, 32)]
    kernels = {True: set(), False: set()}
    widths = set()
    for (batch, listed), share in itertools.product(named, [(0, lanes), (32, 96)]):
        front = (layers, batch, 1)
        fill = Fill(
            torch.empty(*front, plan.slots, lanes, device="meta"),
            torch.empty(*front, 0, lanes, device="meta"),
            torch.empty(*front, 0, 2, lanes, device="meta"),
            torch.empty(layers, 1, plan.spectra_rows, 2, lanes, device="meta"),
            torch.empty(batch, dtype=torch.int64, device="meta"),
            None if listed is None else torch.empty(listed, dtype=torch.int64, device="meta"),
            level,
            1,
        )
        compiled.clear()
        for launch in long_launches(fill, config, *share):
            widths.add(launch.arguments[0].shape[:3])
            launch.compile()
        kernels[listed is None].update(compiled)
    assert len(widths) > 6  # layers, rows and units of channels that are done at once
    assert [len(found) for found in kernels.values()] == [3, 3]
