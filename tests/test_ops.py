"""The registered ops under opcheck and torch.compile."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from futurefill_kernels import FutureFillCache, Plan, native, ops
from futurefill_kernels.implementations import cpu
from futurefill_kernels.nn import LanguageModel, LanguageModelConfig
from futurefill_kernels.nn.token.builder import build
from futurefill_kernels.nn.token.program import encode
from futurefill_kernels.state.spectra import tiled_spectra
from futurefill_kernels.state.tensors import LEVEL_COLUMNS, allocate

pytestmark = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)
OPS = torch.ops.futurefill_kernels
GPU_ONLY = (
    *("history", "apply_step", "early_fill", "long_fill", "prefill_inputs", "prefill_outputs"),
)


def _stream(taken: int, slack_from: int | None = None, made_from: int | None = None):
    torch.manual_seed(0)
    plan = Plan(40, (4, 8), slack_from=slack_from, made_from=made_from)
    cache = FutureFillCache(torch.randn(6, 40), 2, 40, plan=plan, impl="cpu")
    for _ in range(taken):
        cache.step(torch.randn(2, 6))
    return cache.state


def _segment() -> tuple:
    """The first run of layers of a small model's token."""
    config = LanguageModelConfig(32, 16, channels=8, layers=1, mlp_hidden=8)
    token = build(LanguageModel(config), 2, OPS.dense_panel(False))
    ids, progress = torch.tensor([[1], [2]]), torch.zeros(1, dtype=torch.int64)
    memory = token.memory()
    places = memory.weights, memory.scratch, memory.io
    return encode(token.segments[0]), ids, torch.tensor([1, 0]), *places, progress


def _block(channels, block):
    """Inputs, outputs and what a block of an open prompt reads and writes."""
    prompt = _prompt(channels, block)
    sums = torch.zeros(prompt[0].shape[:2])
    return torch.randn(2, channels, block), torch.zeros(2, channels, block), *prompt, sums


def _prompt(channels, block):
    """Slots, spectra and kept transforms of an open prompt."""
    lanes = native.cpu_lanes(torch.float32)
    tiles, values = -(-channels // lanes), 2 * block * lanes
    shapes = (2, tiles, 4 * block, lanes), (tiles, 3, values), (2, tiles, 2, values)
    return tuple(torch.randn(shape) for shape in shapes)


def _arguments(name: str, state) -> tuple:
    u, y = torch.randn(2, 6), torch.zeros(2, 6)
    ring = state.ring, state.open_block
    stream = (*ring, state.taps, state.skip, state.positions)
    filling = (state.filled, state.images)
    filters = state.filters_of_channels
    fills = (state.kept, state.work, state.spectra, filters, state.levels, 40)
    tensors = (state.spectra, state.positions, None, state.levels, 40)
    return {
        "step": (
            *(u, u * 2, None, y, *stream, None, 0, True, *fills, state.undo, state.token_at),
            *filling,
        ),
        "generate": (u, torch.zeros(3, 2, 6), *stream, *fills, *filling),
        "future_fill": (*ring, state.kept, *tensors, 0, 0, state.ring[0, 0, :, 0].numel(), 1),
        "fill_share": (*ring, state.kept, state.work, *tensors, 1, 0, 1),
        "due_fills": (
            *(*ring, state.kept, state.work, state.spectra, filters, state.positions),
            *(state.levels, 40, *filling),
        ),
        "made_fill": (
            *(*ring, state.kept, state.spectra, filters, state.positions, None),
            *(state.levels, 40, 1),
        ),
        "offline_conv": (torch.randn(2, 6, 9), torch.randn(3, 20), torch.zeros(2, 6, 12), 3, 15, 8),
        "prompt_spectrum": (torch.randn(3, 20), _prompt(6, 8)[1][:, 0], 6, 8, 1),
        "prompt_block": (*_block(6, 8), 8, 8, 1, 2),
        "prompt_fill": (*_prompt(6, 8), 6, 16, 8, 2),
        "prompt_first_fill": (_prompt(6, 8)[0], torch.randn(3, 20), 6, 8),
        "token": _segment(),
    }[name]


@pytest.mark.parametrize("name", [name for name in ops.IN_PLACE if name not in GPU_ONLY])
def test_opcheck(name):
    taken = {"fill_share": (8, 8), "made_fill": (8, None, 8)}.get(name, (4,))
    state = _stream(*taken)
    torch.library.opcheck(getattr(OPS, name).default, _arguments(name, state))


@pytest.mark.parametrize("name", GPU_ONLY)
def test_ops_without_a_cpu_kernel_trace(name):
    """Their fakes return nothing, on tensors without memory; on the CPU they are refused."""
    state = _stream(3, 8)
    ring, spectra = state.ring, (state.kept, state.spectra, state.positions)
    slots = ring, state.open_block
    u, x, rows = torch.zeros(2, 6, 9), torch.zeros(2, 6, 64), torch.arange(2)
    token, sums = torch.zeros(2, 6), torch.zeros(1, 2, ring.shape[-1])
    arguments = {
        "history": (
            *(*slots, state.taps, state.positions, rows, state.token_at, state.undo, sums, 1),
        ),
        "apply_step": (
            *(token, None, token, token.clone(), *slots, state.taps, None, sums),
            *(state.token_at, state.positions, rows, 0, True, 1),
        ),
        "early_fill": (*slots, *spectra, rows, state.levels, 40, 1, 0, 32, 1),
        "long_fill": (
            *(torch.zeros(1, 2, 8, 32, 2), *slots, *spectra, rows, torch.zeros(8, 2)),
            *(state.levels, 40, 1, 0, 0, 1),
        ),
        "prefill_inputs": (u, None, rows, x, None),
        "prefill_outputs": (
            *(x, u, None, u, None, u.clone(), state.prompt_fill, ring, rows, None, rows, 0, 0),
        ),
    }[name]
    op = getattr(OPS, name).default
    on_meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]
    assert op(*on_meta) is None
    with pytest.raises(NotImplementedError, match="'CPU' backend"):
        op(*arguments)


def test_a_compiled_step_is_the_step():
    eager, compiled = _stream(0, 8), _stream(0, 8)

    def run(state, u, y):
        ops.step(state, u * 2, y, post=u)
        return y + 1

    traced = torch.compile(run, fullgraph=True, backend="aot_eager")
    for t in range(20):
        u = torch.randn(2, 6, generator=torch.Generator().manual_seed(t))
        expected = run(eager, u, torch.zeros(2, 6))
        assert torch.equal(traced(compiled, u, torch.zeros(2, 6)), expected)
    assert torch.equal(eager.ring, compiled.ring)
    assert compiled.positions.tolist() == [20, 20]


def test_a_cache_steps_in_a_compiled_function():
    torch.manual_seed(0)
    eager = FutureFillCache(torch.randn(6, 40), 2, 40, plan=Plan(40, (4, 8)), impl="cpu")
    compiled = eager.clone()

    def step(x):  # with out: conftest's empty_like is not traced
        return 2 * compiled.step(x, out=torch.zeros_like(x))

    double = torch.compile(step, backend="eager", fullgraph=True)
    for _ in range(20):
        u = torch.randn(2, 6)
        assert torch.equal(double(u), 2 * eager.step(u))
    assert compiled.positions.tolist() == [20, 20]


@pytest.mark.parametrize("slack_from", [None, 8])
def test_generate_is_steps_that_feed_on_themselves(slack_from):
    one, all_at_once = _stream(0, slack_from), _stream(0, slack_from)
    u, y = torch.randn(2, 6), torch.zeros(40, 2, 6)
    ops.generate(all_at_once, u, y)
    for t in range(40):
        out = torch.empty(2, 6)
        ops.step(one, u, out)
        assert torch.equal(out, y[t])
        u = out
    assert torch.equal(one.ring, all_at_once.ring)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("block", 0, "expected levels with block >= 1 and the next power of two as transform"),
        ("transform", 16, "next power of two as transform, got 8 and 16"),
        ("late", 40, "expected levels with 0 <= late < length, .* got late 40"),
        ("steps", 9, "0 <= steps <= block, got late 0, extra 0, steps 9"),
        ("n_spectra", 5, r"1 <= n_spectra < radix \+ extra, got radix 5, n_spectra 5, extra 0"),
        ("spectra_offset", 99, "expected spectra with at least 131 rows, got"),
        ("kept_offset", 9, "expected kept with at least 33 rows, got"),
    ],
)
def test_levels_that_fit_nothing_are_refused(column, value, message):
    plan = Plan(40, (4, 8))
    layout = cpu.make_layout(6, 6, torch.float32, plan)
    layout = dataclasses.replace(layout, direct=0)
    state = allocate(plan, layout, tiled_spectra, [torch.randn(6, 40)], 2, None)
    state.levels[1, LEVEL_COLUMNS.index(column)] = value
    state.positions.fill_(8)
    for call in (
        lambda: ops.step(state, torch.ones(2, 6), torch.ones(2, 6)),
        lambda: ops.future_fill(state, 1, None),
        lambda: ops.bind(state, torch.ones(1)),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    assert not state.ring.any()
    assert state.positions.tolist() == [8, 8]


def test_a_fill_that_the_cpu_does_not_do_is_refused():
    state = _stream(8, 8)
    channels = state.ring[0, 0, :, 0].numel()
    before = state.ring.clone()
    for call, message in (
        (lambda: ops.future_fill(state, 1, None), "expected a level without slack"),
        (lambda: ops.future_fill(state, 2, None), r"expected index in 0 \.\. 1, got 2"),
        (lambda: ops.fill_share(state, 1, None, 1, 0), "expected 0 <= begin <= end, got 1 and 0"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    state = _stream(4)
    with pytest.raises(RuntimeError, match=f"expected all channels, 0 .. {channels}, got 0 .. 1"):
        ops.future_fill(state, 0, None, 0, 1)
    with pytest.raises(RuntimeError, match="expected a level with slack"):
        ops.fill_share(state, 0, None, 0, 1)
    assert torch.equal(before, _stream(8, 8).ring)


def test_a_bound_stream_refuses_what_it_was_not_checked_for():
    cache = FutureFillCache(torch.ones(3, 8), 2, 8, impl="cpu")
    state = cache.state
    doubled = dataclasses.replace(state.prepared, short=state.taps.double())
    for change, message in (
        ({"positions": torch.zeros(3, dtype=torch.int64)}, "expected positions with size 2"),
        ({"prepared": doubled}, "expected taps of dtype float32"),
        ({"undo": state.undo[:, :1]}, "expected undo with size 2 in dimension 1"),
        ({"token_at": state.token_at.int()}, "expected token_at of dtype int64"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.bind(dataclasses.replace(state, **change), torch.ones(1))
    with pytest.raises(RuntimeError, match=r"expected rows in 0 \.\. 1, got 2"):
        cache._step(
            *(torch.ones(1, 3), None, None, torch.ones(1, 3), torch.tensor([2]), 0, True),
        )
    assert cache.state.positions.tolist() == [0, 0]
