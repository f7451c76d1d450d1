"""Streams and whole models of impl="triton" in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import os
import random

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import Plan
from futurefill_kernels.implementations import fft_block, fft_fill, triton
from tests.fast import combinations
from tests.oracles import TOLERANCE, relative_error

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("runs with TRITON_INTERPRET=1, see test_triton.py", allow_module_level=True)

IO_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.slow
def test_stream_with_bfloat16_spectra():
    """Prefill and chunks read the filters, only fills the rounded spectra."""
    torch.manual_seed(0)
    plan, h = Plan(70, (4, 8, 32)), torch.randn(6, 80)
    caches = [
        ff.FutureFillCache(h, 2, 70, plan=plan, impl="triton", spectra_dtype=dtype)
        for dtype in (torch.bfloat16, None)
    ]
    spectra = caches[1].state.spectra.nbytes
    assert caches[1].nbytes - caches[0].nbytes == spectra // 2
    u = torch.randn(2, 6, 83)
    expected = ff.causal_conv(u.double(), h.double())
    for cache, most in zip(caches, (2**-8, 1e-6), strict=True):
        y = [cache.prefill(u[..., :13])]
        y += [cache.step(u[..., t])[..., None] for t in range(13, 40)]
        y += [cache.prefill(u[..., 40:50])]
        y += [cache.step(u[..., t])[..., None] for t in range(50, 83)]
        assert relative_error(torch.cat(y, 2), expected) < most


def test_a_way_back_in_a_group_whose_kept_spectra_do_not_divide_it():
    """A firing that is taken back gives back the spectrum that it replaced."""
    torch.manual_seed(0)
    h, plan = torch.randn(3, 6), Plan(40, (2, 18))
    u = torch.randn(1, 3, 40)
    past, cache = (
        ff.FutureFillCache(h, 1, 40, plan=plan, impl=impl, rollback=4)
        for impl in ("reference", "triton")
    )
    assert [level.kept for level in cache.plan.levels] == [2, 0]
    past.run(u[..., :24])
    cache.load_state_dict(past.state_dict())
    for t in (24, 25, 26):
        cache.step(u[..., t] if t == 24 else torch.randn(1, 3))
    cache.crop(25)
    y = torch.stack([cache.step(u[..., t]) for t in range(25, 30)], -1)
    expected = ff.causal_conv(u.double(), h.double())[..., 25:30]
    assert relative_error(y, expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("limit", "slack_from"), [({"largest_passes": 4}, None), ({"index_limit": 8 * 32}, 4)], ids=str
)
def test_a_stream_whose_large_levels_have_no_kernels(monkeypatch, limit, slack_from):
    """Prompt, steps and a way back, bit for bit: torch.fft does blocks of 8."""
    filled = []

    def fill_by(state, level, *rest):
        filled.append(level.transform)
        fft_block.fill_by(state, level, *rest)

    monkeypatch.setattr(fft_fill, "fill_by", fill_by)
    monkeypatch.setattr(triton, "capabilities", dataclasses.replace(triton.capabilities, **limit))
    torch.manual_seed(0)
    plan = Plan(40, (2, 4, 8), 30, slack_from=slack_from)
    h, u = torch.randn(2, 30), torch.randn(2, 4, 45)
    expected = ff.causal_conv(u.double(), h.double())
    rollback = 0 if slack_from else 4
    cache = ff.FutureFillCache(h, 2, 40, channels=4, plan=plan, impl="triton", rollback=rollback)
    assert relative_error(cache.prefill(u[..., :5]), expected[..., :5]) < 1e-6
    outputs = []
    for t in (*range(5, 31), *(range(27, 31) if rollback else ()), *range(31, 45)):
        if len(outputs) == 26 and rollback:
            cache.crop(22)
        outputs.append(cache.step(u[..., t]))
        assert relative_error(outputs[-1], expected[..., t]) < 1e-5
    if rollback:
        assert torch.equal(torch.stack(outputs[22:26]), torch.stack(outputs[26:30]))
    assert set(filled) == {8}


@pytest.mark.parametrize(
    ("sizes", "begin", "memory"),
    combinations(
        [
            ((2, 4, 8), 6, "speed"), ((3, 12), 10, "speed"), ((4, 8), 6, "small"),
            ((20,), 5, "speed"),
        ],
        fast=[((2, 4, 8), 6, "speed")],
    ),
)  # fmt: skip
def test_a_state_of_16_bits(sizes, begin, memory):
    """From a state of another implementation: firings, rows of their own, a way back, and what is
    saved again, with the bits of a stream that goes on and within the roundings of float64.
    """
    torch.manual_seed(0)
    h, plan = torch.randn(4, 20) / 20**0.5, Plan(20, sizes)
    options = {"plan": plan, "state_dtype": torch.float16, "rollback": 4, "memory": memory}
    past, cache, plain = (
        ff.FutureFillCache(h, 2, 20, impl=impl, **options)
        for impl in ("reference", "triton", "reference")
    )
    u = torch.randn(2, 4, 20)
    past.run(u[..., :begin])
    for c in (cache, plain):
        c.load_state_dict(past.state_dict())
    y = [cache.step(u[..., t]) for t in range(begin, begin + 3)]
    cache.crop(begin + 1)
    again = [cache.step(u[..., begin + 1]), cache.step(u[[1], :, begin + 2], rows=[1])]
    assert torch.equal(again[0], y[1])
    assert torch.equal(again[1][0], y[2][1])
    cache.step(torch.randn(1, 4), rows=[0])
    cache.crop([begin + 2, begin + 3])
    past.load_state_dict(cache.state_dict())
    y[2][0] = cache.step(u[[0], :, begin + 2], rows=[0])[0]
    y.append(cache.step(u[..., begin + 3]))
    got = torch.stack(y, -1).double()
    exact, size = (
        ff.causal_conv(a.double(), b.double())[..., begin : begin + 4]
        for a, b in ((u, h), (u.abs(), h.abs()))
    )
    assert bool(((got - exact).abs() <= size * 2**-11 * (1 + len(sizes)) + 1e-5).all())
    expected = torch.stack([plain.step(u[..., t]) for t in range(begin, begin + 4)], -1)
    assert relative_error(got, expected) < TOLERANCE[torch.float16]
    past.step(u[[0], :, begin + 2], rows=[0])
    assert relative_error(past.step(u[..., begin + 3]), y[3]) < TOLERANCE[torch.float16]


@pytest.mark.slow
def test_an_endless_stream_over_a_leap():
    """From a state of another implementation, with positions taken back across the leap."""
    torch.manual_seed(0)
    h = torch.randn(3, 40) / 40**0.5
    plan = Plan(None, (4, 16), 40)
    past = ff.FutureFillCache(h, 2, None, plan=plan, impl="reference")
    begin = past.plan.window.end - 5
    u = torch.randn(2, 3, begin + 30)
    past.run(u[..., :begin])
    cache = ff.FutureFillCache(h, 2, None, plan=plan, impl="triton", rollback=5)
    cache.load_state_dict(past.state_dict())
    y = []
    for t in range(begin, begin + 25):
        if t == begin + 8:
            cache.prefill(torch.randn(2, 3, 4))
            cache.crop(t)
        y.append(cache.step(u[..., t])[..., None])
    y.append(cache.run(u[..., begin + 25 :]))
    expected = ff.causal_conv(u.double(), h.double())[..., begin:]
    assert relative_error(torch.cat(y, -1), expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("case", combinations(range(6), fast={0}))
def test_stream_of_random_splits(case):
    """Prefill, chunks and steps of rows at their own positions against impl="reference"."""
    draw = random.Random(case)
    torch.manual_seed(case)
    plan = [
        Plan(40, (4, 8, 16), 23), Plan(36, (3, 6, 12)), Plan(50, (1, 5), 9), Plan(45, (16,)),
        Plan(40, (2, 4, 16), slack_from=4), Plan(30, (3, 6, 12), 20, slack_from=6),
    ][case]  # fmt: skip
    dtype = IO_DTYPES[case % 3]
    channels, batch, layers = 6 if plan.slack_from is None else 34, 3, 2
    filters = [torch.randn(2, plan.filter_length) for _ in range(layers)]
    caches = [
        ff.FutureFillCache(
            filters, batch, plan.length, channels=channels, plan=plan, impl=impl, dtype=dtype,
            skip=torch.ones(channels),
        )
        for impl in ("triton", "reference")
    ]  # fmt: skip

    def both(method: str, *arguments: object, layer: int, **options: object) -> None:
        got, expected = (getattr(c, method)(*arguments, layer, **options) for c in caches)
        assert relative_error(got, expected) < TOLERANCE[dtype]

    for layer in range(layers):
        both("prefill", torch.randn(batch, channels, 13).to(dtype), layer=layer)
    while caches[0].positions.max() < plan.length:
        free = [b for b in range(batch) if caches[0].positions[b] < plan.length]
        rows = draw.sample(free, k=draw.randint(1, len(free)))
        room = plan.length - int(caches[0].positions[rows].max())
        chunk = draw.randint(1, room) if draw.random() < 0.1 else 0
        for layer in range(layers):
            u = torch.randn(len(rows), channels, chunk or 1).to(dtype)
            if chunk:
                both("prefill", u, layer=layer, rows=rows)
            else:
                both("step", u[..., 0].contiguous(), layer=layer, rows=rows)
    assert torch.equal(caches[0].positions, caches[1].positions)


def test_a_negated_view_is_its_values():
    h = torch.randn(4, 9)
    cache, plain = (ff.FutureFillCache(h, 2, 8, impl="triton") for _ in range(2))
    u, pre, post = torch.complex(*torch.randn(2, 3, 2, 4)).conj().imag
    assert u.is_neg()
    values = [x.clone().resolve_neg() for x in (u, pre, post)]
    got = cache.step(u, pre=pre, post=post)
    assert torch.equal(got, plain.step(values[0], pre=values[1], post=values[2]))


def test_steps_with_slack():
    """A late level fills two units of channels, each in a step of its own."""
    torch.manual_seed(0)
    plan, h = Plan(14, (2, 4), slack_from=4), torch.randn(17, 14)
    caches = [
        ff.FutureFillCache(h, 1, 14, channels=34, plan=plan, impl=impl)
        for impl in ("triton", "reference")
    ]
    for u in torch.randn(14, 1, 34):
        got, expected = (cache.step(u) for cache in caches)
        assert relative_error(got, expected) < TOLERANCE[torch.float32]


@torch.no_grad()
def test_the_shipped_model_decodes_as_with_reference():
    """Layer by layer: the kernels of a fused token are interpreted for a minute per token."""
    model = ff.nn.load_model()
    ids = torch.tensor([list(b"def mean(values):\n")])
    caches = [
        ff.DecodingCache(model, 1, 5, plan=Plan(5, (2, 4)), impl=impl, fused=False)
        for impl in ("triton", "reference")
    ]
    for _ in range(5):
        first, second = (model(ids, cache=cache)[:, -1:].argmax(-1) for cache in caches)
        assert torch.equal(first, second)
        ids = first


@pytest.mark.slow
def test_decode_of_the_shipped_model_is_that_of_reference():
    model = ff.nn.load_model()
    prompt = torch.tensor([list(b"def mean(values):\n")])
    plan = Plan(3, (1,))
    got, expected = (
        ff.decode(model, prompt, 3, plan=plan, impl=impl) for impl in ("triton", "reference")
    )
    assert torch.equal(got, expected)


def test_a_history_one_launch_per_layer_and_at_most_one_fill(monkeypatch):
    """The launches of 17 tokens of a 24-layer model, in order."""
    from futurefill_kernels.implementations.triton_kernels import launch

    names: list[str] = []
    monkeypatch.setattr(launch.Launch, "run", lambda self: names.append(self.kernel.__name__))
    filters = [torch.ones(2, 32)] * 24
    cache = ff.FutureFillCache(filters, 1, 32, plan=Plan(32, (4, 8, 16)), impl="triton")
    for t in range(17):
        names.clear()
        for layer in range(24):
            cache.step(torch.ones(1, 2), layer)
        cache.launch_fills()
        fills = ["future_fill_kernel"] if (t + 1) % 4 == 0 else []
        assert names == ["history_kernel"] + ["apply_step_kernel"] * 24 + fills


def test_shares_of_a_fill_are_launched_in_their_steps(monkeypatch):
    """A late level fills 32 of 96 channels at a time, and starts where larger ones do, too."""
    from futurefill_kernels.implementations.triton_kernels import launch

    seen: list[tuple[int, int, int]] = []

    def run(self) -> None:
        if self.kernel.__name__ == "future_fill_kernel":
            arguments = dict(zip(self.kernel.arg_names, self.arguments, strict=False))
            seen.append((self.constants["T"], 32 * arguments["first_unit"], self.grid[0]))

    monkeypatch.setattr(launch.Launch, "run", run)
    plan = Plan(64, (4, 16), slack_from=16)
    cache = ff.FutureFillCache(torch.ones(96, 64), 1, 64, plan=plan, impl="triton")
    for t in range(21):
        seen.clear()
        cache.step(torch.ones(1, 96))
        cache.launch_fills()
        plain = [(4, 0, 3)] if (t + 1) % 4 == 0 else []
        late = [(16, 32 * (t - 16), 1)] if t in (16, 17, 18) else []
        assert seen == late + plain
