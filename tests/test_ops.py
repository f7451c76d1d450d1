"""The registered ops under opcheck and torch.compile."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import FutureFillCache, Plan, native, ops
from futurefill_kernels.nn import LanguageModel, LanguageModelConfig
from futurefill_kernels.nn.token.builder import build
from futurefill_kernels.nn.token.program import encode

pytestmark = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)
OPS = torch.ops.futurefill_kernels
GPU_ONLY = ("future_fill_share", "spectrum_products", "prefill_inputs", "prefill_outputs")


def _stream(taken: int, slack_from: int | None = None):
    torch.manual_seed(0)
    plan = Plan(40, (4, 8), slack_from=slack_from)
    cache = FutureFillCache(torch.randn(6, 40), 2, 40, plan=plan, impl="cpu")
    for _ in range(taken):
        cache.step(torch.randn(2, 6))
    return cache._state


def _segment() -> tuple:
    """The first run of layers of a small model's token."""
    config = LanguageModelConfig(32, 16, channels=8, layers=1, mlp_hidden=8)
    token = build(LanguageModel(config), 2, OPS.dense_panel())
    ids, seen = torch.tensor([[1], [2]]), torch.ones(2, dtype=torch.int64)
    return encode(token.segments[0]), ids, token.weights, torch.zeros(token.scratch), seen


def _arguments(name: str, state) -> tuple:
    u, y = torch.randn(2, 6), torch.zeros(2, 6)
    level = state.levels[0].tolist()
    step = (u, u * 2, None, y, state.ring, state.taps, state.skip, state.positions, None, 0, True)
    return {
        "short_range_step": step,
        "step": (*step, state.kept, state.spectra, state.levels, 40),
        "future_fill": (
            *(state.ring, state.kept, state.spectra, state.positions, None, 40),
            *(*level[:5], bool(level[5])),
        ),
        "offline_conv": (torch.randn(2, 6, 9), torch.randn(3, 20), torch.zeros(2, 6, 12), 3, 15, 8),
        "sliced_fill": (
            *(state.ring, state.kept, state.work, state.spectra, state.positions, None),
            *(state.slack_levels, 40),
        ),
        "token_segment": _segment(),
    }[name]


@pytest.mark.parametrize("name", [name for name in ops.IN_PLACE if name not in GPU_ONLY])
def test_opcheck(name):
    state = _stream(4 if name == "future_fill" else 3, 8 if name == "sliced_fill" else None)
    torch.library.opcheck(getattr(OPS, name).default, _arguments(name, state))


@pytest.mark.parametrize("name", GPU_ONLY)
def test_ops_without_a_cpu_kernel_trace(name):
    """Their fakes return nothing, on tensors without memory; on the CPU they are refused."""
    state = _stream(3, 8)
    ring, spectra = state.ring, (state.kept, state.spectra, state.positions)
    u, x, rows = torch.zeros(2, 6, 9), torch.zeros(2, 6, 64), torch.arange(2)
    arguments = {
        "future_fill_share": (ring, *spectra, None, 40, 8, 5, 5, 0, 0, 4, 1, 0, 32, 1),
        "spectrum_products": (
            *(torch.zeros(2, 8, 6, 2), *spectra, rows, 0, 0, 40, 8, 5, 5, 0, 0, 4, 1, 1),
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
    eager, compiled = _stream(0), _stream(0)

    def run(state, u, y):
        OPS.step(
            *(u * 2, None, u, y, state.ring, state.taps, state.skip, state.positions, None),
            *(0, True, state.kept, state.spectra, state.levels, 40),
        )
        return y + 1

    traced = torch.compile(run, fullgraph=True, backend="aot_eager")
    for t in range(20):
        u = torch.randn(2, 6, generator=torch.Generator().manual_seed(t))
        expected = run(eager, u, torch.zeros(2, 6))
        assert torch.equal(traced(compiled, u, torch.zeros(2, 6)), expected)
    assert torch.equal(eager.ring, compiled.ring)
    assert compiled.positions.tolist() == [20, 20]


def test_a_bound_stream_refuses_what_it_was_not_checked_for():
    cache = FutureFillCache(torch.ones(3, 8), 2, 8, impl="cpu")
    state = cache._state
    tensors = [state.ring, state.taps, None, state.positions, state.kept, state.spectra]
    for change, message in (
        ((3, torch.zeros(3, dtype=torch.int64)), "expected positions with size 2"),
        ((1, state.taps.double()), "expected taps of the dtype of ring"),
    ):
        wrong = list(tensors)
        wrong[change[0]] = change[1]
        with pytest.raises(RuntimeError, match=message):
            torch.ops.futurefill_kernels.bind(*wrong, state.levels, 8, 3, torch.ones(1))
    with pytest.raises(RuntimeError, match=r"expected rows in 0 \.\. 1, got 2"):
        cache._step(
            *(torch.ones(1, 3), None, None, torch.ones(1, 3), torch.tensor([2]), 0, True),
        )
    assert cache._state.positions.tolist() == [0, 0]
