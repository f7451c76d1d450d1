"""Levels that make their filter spectra when they fire give what those that hold them give."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from tests.oracles import relative_error

PLANS = [
    (ff.Plan(64, (4, 8, 16, 32), made_from=8), 5, 5, 64),
    (ff.Plan(100, (3, 6, 12, 36), made_from=6), 8, 8, 140),
    (ff.Plan(130, (4, 16, 64), made_from=16), 64, 2, 130),
    (ff.Plan(130, (4, 16, 64), made_from=4), 32, 8, 90),
    (ff.Plan(200, (5, 20), made_from=5), 19, 19, 77),
    (ff.Plan(257, (1, 2, 64, 128), made_from=64), 3, 1, 257),
]


@pytest.mark.parametrize(("plan", "channels", "groups", "taps"), PLANS)
@pytest.mark.parametrize("filters_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("rollback", [0, 40])
def test_streams(impl, plan, channels, groups, taps, filters_dtype, rollback):
    """Prompts, steps of all rows and of some, chunks, and the way back."""
    h = [torch.randn(groups, taps) / taps**0.5 for _ in range(2)]
    n, prompt = plan.length, 9
    u = torch.randn(3, channels, prompt + n)
    cache = ff.FutureFillCache(
        h, 3, n, channels=channels, plan=plan, impl=impl, filters_dtype=filters_dtype,
        rollback=rollback, dtype=torch.float32,
    )  # fmt: skip
    assert cache.plan.made_from == plan.made_from
    y = [torch.zeros(3, channels, 0)] * 2
    for layer in range(2):
        y[layer] = cache.prefill(u[..., :prompt], layer)

    def step(t, rows=None):
        for layer in range(2):
            x = u[..., prompt + t] if rows is None else u[rows, :, prompt + t]
            new = cache.step(x, layer, rows=rows)
            if rows is None:
                y[layer] = torch.cat([y[layer], new[..., None]], -1)
            else:
                y[layer][rows, :, prompt + t] = new

    for t in range(n // 2):
        step(t)
    back = min(n // 2, rollback)
    cache.crop(n // 2 - back)
    y = [x[..., : prompt + n // 2 - back] for x in y]
    for t in range(n // 2 - back, n // 2):
        step(t)
    for layer in range(2):
        rest = cache.prefill(u[..., prompt + n // 2 : -5], layer)
        y[layer] = torch.cat([y[layer], rest, torch.zeros(3, channels, 5)], -1)
    for rows in ([2, 0], [1]):
        for t in range(n - 5, n):
            step(t, rows)
    for layer in range(2):
        seen = h[layer] if filters_dtype is None else h[layer].to(filters_dtype)
        expected = ff.causal_conv(u.double(), seen.double())
        assert relative_error(y[layer], expected) < 1e-6


def test_small_is_a_keyword_of_caches(impl):
    h = torch.randn(32, 2048) / 40
    u = torch.randn(1, 32, 2048)
    plan = ff.Plan.continuous(2048, 32)
    small, usual = (
        ff.FutureFillCache(h, 1, 2048, plan=plan, impl=impl, memory=memory, dtype=torch.float32)
        for memory in ("small", "speed")
    )
    assert (small.plan.made_from, usual.plan.made_from) == (256, None)
    assert small.memory().per_row <= 4.1
    assert small.memory().per_filter <= 5.1
    assert relative_error(small.run(u), usual.run(u)) < 1e-6
    again = small.clone()
    assert again.nbytes < usual.nbytes or impl == "reference"
    with pytest.raises(ValueError, match="expected memory to be one of"):
        ff.FutureFillCache(h, 1, 2048, impl=impl, memory="tiny")


def test_plans_with_slack_hold_their_spectra():
    with pytest.raises(ValueError, match="made_from or slack_from, got made_from=8 and"):
        ff.Plan(64, (4, 8, 16), made_from=8, slack_from=16)
    with pytest.raises(ValueError, match=r"made_from to be one of .* \(4, 8\), got 16"):
        ff.Plan(64, (4, 8), made_from=16)
    text = ff.Plan(64, (4, 8, 16), made_from=16).explain()
    assert "made" in text.splitlines()[-2]


def test_a_model_that_takes_little_memory():
    config = ff.nn.LanguageModelConfig(channels=32, layers=2, context_length=2048, mlp_hidden=32)
    model = ff.nn.LanguageModel(config).eval()
    prompt = torch.tensor([list(b"def ")])
    decoders = [ff.Decoder(model, 1, 1024, memory=memory) for memory in ("speed", "small")]
    ids = [decoder(prompt, 300) for decoder in decoders]
    assert torch.equal(*ids)
    assert decoders[1].cache.plan.made_from is not None
    assert decoders[1].cache.nbytes < decoders[0].cache.nbytes
