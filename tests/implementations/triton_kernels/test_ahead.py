"""Kernels compiled ahead are those that a stream launches, with a driver that only names sm_80."""

from __future__ import annotations

import importlib.util
import itertools
import os
from types import SimpleNamespace

import pytest
import torch

import futurefill_kernels as ff
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
from futurefill_kernels.implementations.triton_kernels.launch import Fill, Launch
from futurefill_kernels.implementations.triton_kernels.long_launch import long_launches
from futurefill_kernels.implementations.triton_kernels.sizes import StreamSizes


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


@pytest.fixture
def launched(monkeypatch, compiled):
    """Streams of impl="triton" on the CPU, of which every launch is compiled and none runs."""
    monkeypatch.setattr(ops, "interpreted", lambda: True)  # accepts tensors on the CPU
    monkeypatch.setattr(implementation, "_missing", lambda: None)
    monkeypatch.setattr(Launch, "run", Launch.compile)
    return compiled


def kernels_ahead(compiled, sizes) -> dict[str, set[str]]:
    """By name. The CPU's stand-in is an A100."""
    found = {}
    for name, launches in stream_launches(sizes, DeviceInfo.named("a100")).items():
        compiled.clear()
        for launch in launches:
            launch.compile()
        found[name] = set(compiled)
    compiled.clear()
    return found


@pytest.mark.parametrize(("channels", "groups", "layers"), [(40, 40, 2), (64, 8, 1)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_they_are_what_a_stream_launches(launched, channels, groups, layers, batch, state_dtype):
    """Prompts of one length and of several, with and without gates and skip; steps of all rows and
    of listed ones; fills of one launch, with and without kept spectra, of three, and between
    transforms of torch. Nothing else is launched, and all of it is by a stream of several rows.
    """
    spectra_dtype = torch.bfloat16 if layers == 1 else None
    plan = Plan(3 * 8192, (16, 32, 1024, 8192))
    sizes = StreamSizes(
        plan, channels, groups, layers, batch, spectra_dtype=spectra_dtype or torch.float32,
        state_dtype=state_dtype, prompt=20,
    )  # fmt: skip
    ahead = kernels_ahead(launched, sizes)
    fills = [sizes.fill_name(level) for level in plan.levels]
    assert list(ahead) == [*sizes.step_names, *fills, sizes.PROMPT]
    h = torch.ones(groups, plan.length)
    cases = itertools.product((None, torch.ones(channels)), (False, True), range(min(batch, 2)))
    for skip, gated, shorter in cases:
        cache = ff.FutureFillCache(
            [h] * layers, batch, plan.length, channels=channels, plan=plan, impl="triton",
            skip=skip, spectra_dtype=spectra_dtype, state_dtype=state_dtype,
        )  # fmt: skip
        prompt, u = torch.zeros(batch, channels, sizes.prompt), torch.zeros(batch, channels)
        gates = {"pre": prompt, "post": prompt} if gated else {}
        lengths = [sizes.prompt] * (batch - 1) + [sizes.prompt - shorter]
        for layer in range(layers):
            cache.prefill(prompt, layer, lengths=lengths, **gates)
        gates = {"pre": u, "post": u} if gated else {}
        for t, layer in itertools.product(range(20), range(layers)):
            rows = [0, -1][: batch - 1] if batch > 1 and t % 3 == 2 else None
            some = slice(len(rows) if rows else batch)
            own = {name: gate[some] for name, gate in gates.items()}
            cache.step(u[some], layer, rows=rows, **own)
        for level, listed in itertools.product(plan.levels, (None, torch.arange(batch))):
            if listed is None or batch > 1:
                cache.state.positions.fill_(level.block)
                implementation.fill(cache.state, level, listed)
    expected = set().union(*ahead.values())
    assert set(launched) - expected == set()
    if batch > 1:
        assert {name for name, kernels in ahead.items() if kernels - set(launched)} == set()


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


@pytest.mark.parametrize("block", [16, 64, 256])
def test_a_first_product_up_to_256_serves_every_padded_width(compiled, block):
    plan = Plan(2 * block, (block,))
    for channels, groups in ((32, 32), (1024, 1024), (1000, 1000)):
        sizes = StreamSizes(plan, channels, groups, 2, 1)
        (launch,) = stream_launches(sizes, DeviceInfo.named("h100"))[f"fill of {block}"]
        launch.compile()
    assert len(set(compiled)) == 1


@pytest.mark.parametrize(("channels", "fills"), [(40, (16, 1 << 18)), (8192, (16,))])
def test_blocks_that_torch_fills_have_none(channels, fills):
    """Longer ones than Triton's, or with more channels than its indices reach."""
    sizes = StreamSizes(Plan(1 << 20, (16, 1 << 18, 1 << 19)), channels, channels, 1, 1)
    ahead = stream_launches(sizes, DeviceInfo.named("a100"))
    assert {name for name in ahead if name.startswith("fill")} == {f"fill of {n}" for n in fills}
