"""``impl="cuda"``: when it runs, what it says otherwise, and whole streams in an emulator."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import native
from futurefill_kernels.implementations import cuda, fft_block, fft_fill, select
from tests.emulation import cuda_compile, launch_shapes
from tests.emulation.implementation import emulated_implementation
from tests.fast import combinations
from tests.implementations.prompt_cases import check_prompts
from tests.oracles import relative_error

NOT_BUILT = native.cuda_unavailable_reason()
NOT_EMULATED = cuda_compile.unavailable()


def test_reasons_name_what_stands_against():
    plan = ff.Plan(100_000, (24, 48, 16_416))
    reasons = cuda.cannot_run(torch.device("cpu"), torch.float64, plan)
    assert "runs on CUDA devices, not on cpu" in reasons
    assert "computes in float32, not in float64" in reasons
    assert not any("block" in reason for reason in reasons)
    assert cuda.cannot_run(torch.device("cpu"), torch.float32, ff.Plan(64, (16, 32)))[1:] in (
        [],
        [NOT_BUILT],
    )


@pytest.mark.skipif(NOT_EMULATED is not None, reason=f"no CUDA emulation: {NOT_EMULATED}")
def test_python_and_cuda_agree_on_large_blocks():
    for block in (2048, 4096, 8192):
        for memory in launch_shapes.memories(block):
            config = launch_shapes.fill_config(block, memory)
            expected = cuda.INTERLEAVED.get(block, (1, config.channels))
            assert (config.units, config.channels) == expected


@pytest.mark.parametrize(
    ("capability", "reason"),
    [
        ((8, 0), None),
        ((8, 7), None),
        ((9, 0), None),
        ((12, 1), None),
        ((13, 0), None),
        ((7, 5), "no code for sm_75; it has sm_80, sm_90 and PTX of sm_90"),
    ],
)
def test_architectures(capability, reason):
    got = cuda.architecture_reason(capability, "sm_80, sm_90 and PTX of sm_90")
    assert got is None if reason is None else got is not None and reason in got


def test_code_without_ptx_serves_one_major_version():
    assert cuda.architecture_reason((8, 9), "sm_86") is None
    assert cuda.architecture_reason((8, 0), "sm_86") is not None
    assert cuda.architecture_reason((9, 0), "sm_86") is not None


def test_asking_for_it_on_a_cpu_is_refused_with_the_reason():
    with pytest.raises(RuntimeError, match="impl='cuda' cannot run on cpu: runs on CUDA devices"):
        ff.FutureFillCache(torch.randn(4, 64), 1, 64, impl="cuda")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """``impl="emulated"``: the CUDA kernels, run by the emulator on CPU tensors."""
    if NOT_EMULATED:
        pytest.skip(f"no CUDA emulation: {NOT_EMULATED}")
    implementation = emulated_implementation()
    monkeypatch.setitem(select.IMPLEMENTATIONS, "emulated", implementation)
    return implementation


@pytest.mark.parametrize(
    ("groups", "taps", "blocks", "slack_from"),
    combinations(
        [
            (6, 40, (4, 16, 32), None),
            (2, 200, (4, 16, 32), None),
            (2, 200, (3, 12, 24), None),
            (6, 200, (2, 8, 32), 8),
        ],
        fast=[(6, 200, (2, 8, 32), 8)],
    ),
)
def test_streams_of_prompts_chunks_and_steps(emulated, groups, taps, blocks, slack_from):
    """Random splits into prefill, chunks and steps equal one parallel convolution."""
    torch.manual_seed(taps + groups)
    filters = [torch.randn(groups, taps) / 8 for _ in range(2)]
    plan = ff.Plan(70, blocks, slack_from=slack_from)
    cache = ff.FutureFillCache(filters, 2, 70, channels=6, plan=plan, impl="emulated")
    prompt, total = 9, 79
    u = torch.randn(2, 6, total)
    outputs: list[list[torch.Tensor]] = [[], []]
    t = 0
    while t < total:
        chunk = prompt if t == 0 else (7 if t in (30, 61) else 1)
        x = u[..., t : t + chunk]
        for layer in range(2):
            if chunk == 1:
                x = cache.step(x[..., 0].contiguous(), layer)[..., None]
            else:
                x = cache.prefill(x, layer)
            outputs[layer].append(x)
        t += chunk
    x = u.double()
    for layer in range(2):
        x = ff.reference.causal_conv(x, filters[layer].double())
        assert relative_error(torch.cat(outputs[layer], -1), x) < 1e-6


@pytest.mark.parametrize("slack_from", combinations([None, 8], fast=[8]))
def test_a_stream_whose_large_levels_have_no_kernels(emulated, monkeypatch, slack_from):
    """As if the passes ended at 8 points: torch.fft does blocks of 32."""
    filled = []

    def fill_by(state, level, *rest):
        filled.append(level.block)
        fft_block.fill_by(state, level, *rest)

    monkeypatch.setattr(fft_fill, "fill_by", fill_by)
    short = dataclasses.replace(cuda.capabilities, largest_passes=8)
    monkeypatch.setattr(cuda, "capabilities", short)
    torch.manual_seed(0)
    plan = ff.Plan(70, (2, 8, 32), slack_from=slack_from)
    h, u = torch.randn(2, 90) / 8, torch.randn(2, 6, 70)
    cache = ff.FutureFillCache(h, 2, 70, channels=6, plan=plan, impl="emulated")
    y = torch.stack([cache.step(u[..., t]) for t in range(70)], -1)
    expected = ff.reference.causal_conv(u.double(), h.double())
    assert relative_error(y, expected) < 1e-6
    assert set(filled) == {32}


@pytest.mark.parametrize(
    ("blocks", "state_dtype", "rollback"),
    combinations(
        [(4, 16), (3, 12, 24), (1, 2, 32), (40,)], [torch.bfloat16, torch.float16], [9, None],
        fast=[((4, 16), torch.bfloat16, 9)],
    ),
    ids=str,
)  # fmt: skip
def test_a_state_of_16_bits(emulated, blocks, state_dtype, rollback):
    """What it rounds, where `reference` does: a prompt, steps of some rows, a chunk, and bit for
    bit again what is taken back.
    """
    torch.manual_seed(len(blocks))
    filters = [torch.randn(3, taps) / taps**0.5 for taps in (40, 200)]
    caches = [
        ff.FutureFillCache(
            filters, 2, 40, channels=6, plan=ff.Plan(40, blocks), impl=impl, rollback=rollback,
            state_dtype=state_dtype,
        )
        for impl in ("emulated", "reference")
    ]  # fmt: skip
    u, rows = torch.randn(2, 6, 49), [1, 0]
    outputs = []
    for cache in caches:
        y = [torch.stack([cache.prefill(u[..., :9], layer) for layer in range(2)])]
        for t in range(9, 49):
            if t == 30:
                cache.crop(t - 9 - 7)
                for s in range(t - 7, t):
                    again = [cache.step(u[rows, :, s], layer, rows=rows) for layer in range(2)]
                    assert torch.equal(torch.stack(again)[:, rows, :, None], y[s - 8])
            x = u[rows, :, t]
            token = [cache.step(x, layer, rows=rows) for layer in range(2)]
            y.append(torch.stack(token)[:, rows, :, None])
            if t == 35:
                cache.step(-x, 0, rows=rows)
                cache.abort()
        outputs.append(torch.cat(y, -1))
    got, expected = outputs
    assert "fill 16" in emulated.launches or 16 not in blocks
    h = torch.stack([torch.nn.functional.pad(h, (0, 200 - h.shape[1])) for h in filters])
    exact = torch.stack([ff.causal_conv(u.double(), h[i].double()) for i in range(2)])
    sizes = torch.stack([ff.causal_conv(u.double().abs(), x.double().abs()) for x in h])
    roundings = (2 + len(caches[0].plan.levels)) * torch.finfo(state_dtype).eps / 2
    assert bool(((got - exact).abs() <= 1.01 * roundings * sizes + 1e-5).all())
    # rounded alike, but for sums next to the middle of two numbers
    assert (got - expected).norm() < 0.1 * (expected - exact).norm()
    assert caches[0].state.ring.dtype is state_dtype


@pytest.mark.parametrize(
    ("channels", "groups", "dtype"),
    combinations(
        [(1, 1, torch.float16), (6, 2, torch.bfloat16), (40, 40, torch.float32)],
        fast=[(6, 2, torch.bfloat16)],
    ),
)
def test_prompts(emulated, channels, groups, dtype):
    check_prompts("emulated", dtype, channels, groups)
    assert "prompt" in emulated.launches


def test_rows_at_positions_of_their_own(emulated):
    torch.manual_seed(0)
    filters = torch.randn(5, 64)
    plan = ff.Plan(64, (8, 16))
    caches = [
        ff.FutureFillCache(filters, 3, 64, plan=plan, impl=impl, rollback=20)
        for impl in ("emulated", "cpu")
    ]
    for t in range(60):
        rows = [r for r in range(3) if (t + r) % 4 or t > 40]
        if t == 30:
            for cache in caches:
                cache.crop(11)
        u = torch.randn(len(rows), 5)
        got, expected = (cache.step(u, rows=rows) for cache in caches)
        assert relative_error(got, expected) < 2e-6


def test_launches_per_token(emulated):
    """At most one fill for all layers, due since the token before, a history for all layers, and
    one launch per layer.
    """
    layers = 3
    plan = ff.Plan(64, (16, 32))
    cache = ff.FutureFillCache(
        [torch.randn(2, 64) for _ in range(layers)], 1, 64, plan=plan, impl="emulated"
    )
    due: list[str] = []
    for t in range(48):
        emulated.launches.clear()
        for layer in range(layers):
            cache.step(torch.randn(1, 2), layer)
        assert emulated.launches == [*due, "history", *["step"] * layers]
        due = [f"fill {plan.levels[level].block}" for level in plan.levels_at(t)]
