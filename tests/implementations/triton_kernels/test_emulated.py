"""Whole streams through compiled Triton kernels in a PTX emulator.

Compiling needs Triton, running the emulator that FUTUREFILL_PTXEMU names; nothing needs a GPU.
``-m slow`` has the other targets and sizes.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import Plan
from futurefill_kernels.implementations.triton_kernels import ops
from tests.emulation import emulator
from tests.fast import combinations
from tests.implementations.prompt_cases import check_prompts
from tests.oracles import TOLERANCE, relative_error

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if "TRITON_INTERPRET" in os.environ:
    pytest.skip("TRITON_INTERPRET is set: nothing is compiled", allow_module_level=True)

from futurefill_kernels.implementations.triton_kernels import launch as launches

needs_emulator = pytest.mark.skipif(
    emulator.unavailable() is not None, reason=str(emulator.unavailable())
)


@pytest.fixture(params=combinations([80, 90], fast={80}))
def emulated(request, monkeypatch):
    """impl="triton" on CPU tensors, its launches compiled and run in the emulator."""
    ptxemu = emulator.load()
    names: list[str] = []

    def run(self) -> None:
        names.append(self.kernel.__name__)
        ptxemu.run_triton(
            self.kernel, self.grid, *self.arguments, **self.constants, **self.options,
            arch=request.param, racecheck=True, initcheck=True, threads=1,
        )  # fmt: skip

    monkeypatch.setattr(launches.Launch, "run", run)
    monkeypatch.setattr(ops, "interpreted", lambda: True)
    return names


@needs_emulator
@pytest.mark.slow
def test_prompts_in_the_emulator(emulated):
    check_prompts("triton", torch.float32, 40, 5)
    assert {"prefill_inputs_kernel", "prefill_outputs_kernel"} < set(emulated)


@needs_emulator
@pytest.mark.parametrize(
    ("plan", "channels", "groups", "batch", "dtype"),
    [
        (Plan(13, (1, 3, 6), 10, slack_from=3), 34, 17, 2, torch.bfloat16),
        pytest.param(Plan(75, (4, 16, 32), 50), 33, 11, 3, torch.float32, marks=pytest.mark.slow),
        pytest.param(Plan(64, (3, 6, 24)), 7, 7, 2, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(Plan(40, (1, 2, 4, 8)), 1, 1, 1, torch.float32, marks=pytest.mark.slow),
        pytest.param(Plan(150, (64,)), 40, 2, 5, torch.float16, marks=pytest.mark.slow),
        pytest.param(Plan(230, (100,)), 12, 4, 7, torch.float32, marks=pytest.mark.slow),
        pytest.param(
            Plan(90, (2, 8, 32), slack_from=8), 70, 70, 2, torch.float32, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_stream_in_the_emulator(emulated, plan, channels, groups, batch, dtype):
    """Steps of rows at their own positions, with padding, gates and skip."""
    torch.manual_seed(0)
    h = torch.randn(2, groups, plan.filter_length)
    caches = [
        ff.FutureFillCache(
            list(h), batch, plan.length, channels=channels, plan=plan, impl=impl, dtype=dtype,
            skip=torch.ones(channels),
        )
        for impl in ("triton", "reference")
    ]  # fmt: skip
    outputs = []
    for t in range(plan.length):
        rows = None if batch == 1 or t % 3 else [*range(1, batch), -1]
        for layer in range(2):
            u, pre, post = torch.randn(3, batch, channels).to(dtype)
            outputs.append([c.step(u, layer, pre=pre, post=post, rows=rows) for c in caches])
    got, expected = (torch.stack(y) for y in zip(*outputs, strict=True))
    assert relative_error(got, expected) < TOLERANCE[dtype]
    assert {"history_kernel", "apply_step_kernel", "future_fill_kernel"} == set(emulated)


@needs_emulator
@pytest.mark.parametrize(
    "state_dtype", combinations([torch.bfloat16, torch.float16], fast={torch.bfloat16})
)
def test_a_state_of_16_bits_in_the_emulator(emulated, state_dtype):
    """Two levels, the rounding of a GPU, rows at their own positions."""
    torch.manual_seed(0)
    plan, h = Plan(12, (2, 4), 10), torch.randn(17, 10)
    caches = [
        ff.FutureFillCache(
            h, 2, 12, channels=34, plan=plan, impl=impl, dtype=torch.float32,
            state_dtype=state_dtype,
        )
        for impl in ("triton", "reference")
    ]  # fmt: skip
    outputs = []
    for t in range(9):
        u, rows = torch.randn(2, 34), [1, -1] if t in (2, 5) else None
        outputs.append([c.step(u, rows=rows) for c in caches])
    for c in caches:
        c.launch_fills()
    got, expected = (torch.stack(y) for y in zip(*outputs, strict=True))
    assert relative_error(got, expected) < TOLERANCE[state_dtype]
    got, expected = (c.state.ring[..., :34] for c in caches)
    assert (got != expected).float().mean() < 0.01  # sums next to the middle of two numbers
    assert {"history_kernel", "apply_step_kernel", "future_fill_kernel"} == set(emulated)


@needs_emulator
@pytest.mark.parametrize(
    "state_dtype", combinations([torch.float32, torch.float16], fast={torch.float32})
)
def test_a_long_level_of_no_power_of_two_in_the_emulator(emulated, state_dtype):
    plan = Plan(4200 * 3 - 100, (4200,), 9000)
    torch.manual_seed(0)
    h = torch.randn(3, plan.filter_length)
    caches = [
        ff.FutureFillCache(
            h, 2, plan.length, channels=6, plan=plan, impl=impl, state_dtype=state_dtype
        )
        for impl in ("triton", "reference")
    ]
    most = max(4e-7, TOLERANCE[state_dtype] * (state_dtype != torch.float32))
    values = torch.randn(1, 2, 1, plan.length, 6)
    for cache in caches:
        cache.state.ring[..., :6] = values
    for blocks in (1, 2):
        for cache in caches:
            cache.state.positions.copy_(torch.tensor([4200 * blocks, 4200]))
            cache.implementation.fill(cache.state, plan.levels[0], None)
        assert relative_error(caches[0].state.ring[..., :6], caches[1].state.ring) < most
    assert set(emulated) == {"split_block_kernel", "transform_nodes_kernel", "merge_block_kernel"}


@needs_emulator
@pytest.mark.parametrize("block", combinations([24, 512], fast={24}))
def test_fill_of_listed_rows_in_the_emulator(block, emulated):
    """Padding rows read and write nothing."""
    plan = Plan(3 * block, (block,))
    h = torch.randn(9, plan.filter_length, generator=torch.Generator().manual_seed(0))
    caches = [
        ff.FutureFillCache(h, 3, plan.length, channels=9, plan=plan, impl=impl)
        for impl in ("triton", "reference")
    ]
    values = torch.randn(1, 3, 1, plan.length, 9)
    for cache, rows in zip(caches, ([2, -1, 0], [2, 0]), strict=True):
        cache.state.ring[..., :9] = values
        cache.state.positions.fill_(block)
        cache.implementation.fill(cache.state, plan.levels[0], torch.tensor(rows))
    got = caches[0].state.ring[..., :9]
    assert relative_error(got, caches[1].state.ring) < 4e-7
    assert torch.equal(got[:, 1], values[:, 1])


@needs_emulator
@pytest.mark.slow
def test_decode_in_the_emulator(emulated):
    model = ff.nn.load_model()
    prompt = torch.tensor([list(b"import os\n"), list(b"def mean(v")])
    got, expected = (
        ff.decode(model, prompt, 40, plan=Plan(40, (4, 8)), impl=impl)
        for impl in ("triton", "reference")
    )
    assert torch.equal(got, expected)
