"""The bounds of docs/accuracy.md, on inputs and filters over many decades."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.plan import Plan
from tests.cache.streams import plan_of

LENGTH = 300
PLANS = [(300,), (8, 64), (16, 32, 64, 128), (3, 30, 90), ((4, 16, 64), 16)]


def decades(*shape: int, most: float) -> torch.Tensor:
    """Random signs, sizes over 10^-most .. 10^most."""
    return torch.randn(*shape).sign() * 10 ** (most * (2 * torch.rand(*shape) - 1))


def exponential(*shape: int, rate: float) -> torch.Tensor:
    return torch.randn(*shape) * torch.exp(rate * torch.arange(shape[-1], dtype=torch.float64))


SIGNALS = (
    lambda n: torch.randn(n, dtype=torch.float64),
    lambda n: decades(n, most=6).double(),
    lambda n: exponential(n, rate=27.6 / n),
    lambda n: exponential(n, rate=-27.6 / n),
    lambda n: torch.where(torch.arange(n) == n // 3, 1e12, torch.randn(n).double()),
)


def all_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and filters (D, T) float32, a channel for every pair of SIGNALS."""
    torch.manual_seed(0)
    pairs = [(x(LENGTH), h(LENGTH)) for x in SIGNALS for h in SIGNALS]
    u, h = (torch.stack(part).float() for part in zip(*pairs, strict=True))
    return u, h


def norms(x: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """(D, T) -> (D,), of what there is of begin .. end-1."""
    return x[:, max(begin, 0) : max(end, 0)].norm(dim=1)


def stream_bound(plan: Plan, u: torch.Tensor, h: torch.Tensor, unit: float) -> torch.Tensor:
    """docs/accuracy.md, "A stream". u: (D, T), h: (D, L) float64 -> (D, T)."""
    base, bound = plan.base, torch.zeros_like(u)
    for t in range(u.shape[1]):
        taps = min(t % base + 1, h.shape[1])
        newest = u[:, t + 1 - taps : t + 1].flip(1)
        bound[:, t] += (taps + 2) * unit * (newest * h[:, :taps]).abs().sum(1)
        p = t + 1
        for fired in plan.levels_at(t):
            level = plan.levels[fired]
            block, late = level.block, level.late
            blocks = level.products(p // block)
            x = norms(u, p - blocks * block, p)
            taps_of_all = norms(h, late, late + (blocks + 1) * block)
            factor = 14 * math.log2(2 * level.transform) + blocks + 6
            bound[:, p + late : p + late + block] += (factor * unit * x * taps_of_all)[:, None]
    return bound


def stream(cache: ff.FutureFillCache, u: torch.Tensor) -> torch.Tensor:
    return torch.stack([cache.step(u[None, :, t])[0] for t in range(u.shape[1])], -1)


@pytest.mark.parametrize("sizes", PLANS)
def test_a_stream_keeps_to_its_bound(impl, sizes):
    u, h = all_pairs()
    cache = ff.FutureFillCache(h, 1, LENGTH, plan=plan_of(LENGTH, sizes), impl=impl)
    error = stream(cache, u).double() - ff.reference.causal_conv(u[None].double(), h.double())[0]
    bound = stream_bound(cache.plan, u.double(), h.double(), 2.0**-24)
    assert (error.abs() <= bound + 2.0**-126).all()


def test_whole_sequences_keep_to_their_bound(impl):
    u, h = all_pairs()
    expected = ff.reference.causal_conv(u[None].double(), h.double())[0]
    size = u.double().norm(dim=1) * h.double().norm(dim=1)
    bound = 2.0**-24 * (28 * math.log2(4 * LENGTH) + 12) * size[:, None]
    cache = ff.FutureFillCache(h, 1, 8, impl=impl)
    for y in (ff.causal_conv(u[None], h), cache.prefill(u[None])):
        assert ((y[0].double() - expected).abs() <= bound).all()


@pytest.mark.cpu_only("GPU kernels have no float64")
@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_a_float64_state_rounds_once(impl):
    """What float32 loses beside one huge input."""
    u, h = all_pairs()
    options = {"impl": impl, "state_dtype": torch.float64}
    cache = ff.FutureFillCache(h, 1, LENGTH, plan=Plan(LENGTH, (8, 64)), **options)
    y = stream(cache, u)
    assert (y.dtype, cache.state.ring.dtype) == (torch.float32, torch.float64)
    exact = ff.reference.causal_conv(u[None].double(), h.double())[0]
    bound = stream_bound(cache.plan, u.double(), h.double(), 2.0**-53)
    assert ((y.double() - exact).abs() <= bound + 2.0**-24 * exact.abs()).all()
    halves = [ff.FutureFillCache(h, 1, 50, dtype=torch.bfloat16, **options) for _ in range(2)]
    u = (u / u.abs().amax(1, keepdim=True)).bfloat16()[None]
    assert halves[0].prefill(u[..., :90]).dtype == torch.bfloat16
    halves[1].load_state_dict(halves[0].state_dict())
    copied, token = pickle.loads(pickle.dumps(halves[0])), u[..., 90]
    for cache in (halves[0], copied):
        assert torch.allclose(halves[1].clone().step(token), cache.step(token))


def test_other_state_dtypes_are_refused():
    h = torch.ones(2, 8)
    with pytest.raises(TypeError, match="None, float32, float64, bfloat16, float16 for inp"):
        ff.FutureFillCache(h, 1, 8, state_dtype=torch.int8)
    with pytest.raises(TypeError, match=r"None, float64 for inputs of torch\.float64, got"):
        ff.FutureFillCache(h.double(), 1, 8, state_dtype=torch.float32)


@pytest.mark.parametrize(
    ("h", "taps"),
    [
        (torch.tensor([[1.0, 2, 0, 0], [0, 0, 1, 0]]), 3),
        (torch.zeros(2, 5), 1),
        (torch.cat([torch.ones(1, 7), torch.full((1, 3), 1e-19)], 1), 10),
        (torch.cat([torch.ones(1, 7), torch.full((1, 3), 1e-20)], 1), 7),
        (torch.exp(-torch.arange(1500.0))[None], 43),
        (torch.exp(-torch.arange(1500.0).double())[None], 64),
    ],
)
def test_the_end_of_a_filter_that_adds_nothing_is_left_out(impl, h, taps):
    if impl not in ("cpu", "reference"):
        h = h.float()
    cache = ff.FutureFillCache(h, 1, 1500, impl=impl)
    assert abs(cache.plan.filter_length - taps) <= 3
    assert cache.plan.block_sizes[-1] <= cache.plan.filter_length
    u = torch.randn(1, len(h), 30, dtype=h.dtype)
    assert torch.allclose(stream(cache, u[0]), ff.causal_conv(u, h)[0], atol=1e-5)


@pytest.mark.cpu_only("the engine's threads")
@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_below_the_smallest_normal_one_count_as_zero_inside_calls_only(threads):
    h, u = torch.ones(64, 64), torch.full((1, 64, 64), 1e-40)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cache = ff.FutureFillCache(h, 1, 64)
        y = stream(cache, u[0])
        assert (y.abs() <= 64e-40).all()
        assert torch.equal(u / 2 * 2, u)
        assert ff.causal_conv(u, h).abs().max() <= 65e-40
        assert torch.equal(u / 2 * 2, u)
    finally:
        torch.set_num_threads(before)
