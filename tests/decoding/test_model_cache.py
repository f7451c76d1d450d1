"""DecodingCache: a model called in pieces gives what one parallel call gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from tests.nn.mixers import CHANNELS, MIXERS, TOLERANCE, Stack, check_modes, run_split


@pytest.fixture(autouse=True)
def _no_grad():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_prefill_and_steps_equal_the_parallel_form(dtype):
    check_modes(Stack, dtype)


@pytest.mark.parametrize("seed", range(8))
def test_any_split_into_prompt_chunks_and_steps(seed):
    rng = np.random.default_rng(seed)
    model = Stack().double()
    x = torch.randn(2, 40, CHANNELS, dtype=torch.float64)
    splits = sorted(rng.choice(np.arange(1, 40), size=rng.integers(1, 39), replace=False).tolist())
    streamed = run_split(model, x, splits, ff.DecodingCache(model, 2, 40))
    torch.testing.assert_close(streamed, model(x), rtol=0, atol=1e-12)


def test_right_padded_prompts_continue_as_if_alone():
    model = Stack().double()
    lengths = [1, 7, 4]
    x = torch.randn(3, 20, CHANNELS, dtype=torch.float64)
    cache = ff.DecodingCache(model, 3, 13)
    padded = x[:, :7].clone()
    for row, n in enumerate(lengths):
        padded[row, n:] = 99.0
    with cache.select(lengths=lengths):
        prompt = model(padded, cache)
    # every row continues with its own sequence from its own end
    steps = [
        model(torch.stack([x[b, n + t] for b, n in enumerate(lengths)])[:, None], cache)
        for t in range(13)
    ]
    for b, n in enumerate(lengths):
        alone = model(x[b : b + 1, : n + 13])[0]
        torch.testing.assert_close(prompt[b, :n], alone[:n], rtol=0, atol=1e-12)
        torch.testing.assert_close(
            torch.stack([y[b, 0] for y in steps]), alone[n:], rtol=0, atol=1e-12
        )


def test_rows_step_reset_and_restart_on_their_own():
    model = MIXERS["hyena-2"]().double()
    x = torch.randn(2, 20, CHANNELS, dtype=torch.float64)
    cache = ff.DecodingCache(model, 2, 12)
    model(x[:, :5], cache)
    with cache.select(rows=[1]):
        late = torch.cat([model(x[1:, t : t + 1], cache) for t in range(5, 9)], 1)
    torch.testing.assert_close(late, model(x[1:])[:, 5:9], rtol=0, atol=1e-12)
    cache.reset(rows=[1])
    assert cache.positions.tolist() == [0, 0]
    with cache.select(rows=[1]):
        first = model(x[:1, :3], cache)
    torch.testing.assert_close(first, model(x[:1])[:, :3], rtol=0, atol=1e-12)
    both = model(torch.stack([x[0, 5], x[0, 3]])[:, None], cache)
    torch.testing.assert_close(both[:, 0], model(x[:1])[0, [5, 3]], rtol=0, atol=1e-12)


def test_clone_reorder_and_reset():
    model = Stack().double()
    x = torch.randn(3, 20, CHANNELS, dtype=torch.float64)
    cache = ff.DecodingCache(model, 3, 12)
    run_split(model, x[:, :11], range(8, 11), cache)
    other = cache.clone()
    other.reorder([2, 2, 0])
    swapped = x[[2, 2, 0]]
    y = run_split(model, swapped[:, 11:], range(1, 9), other)
    torch.testing.assert_close(y, model(swapped)[:, 11:], rtol=0, atol=1e-12)
    y = run_split(model, x[:, 11:], range(1, 9), cache)
    torch.testing.assert_close(y, model(x)[:, 11:], rtol=0, atol=1e-12)
    cache.reset()
    y = run_split(model, x[:, :15], range(10, 15), cache)
    torch.testing.assert_close(y, model(x[:, :15]), rtol=0, atol=1e-12)


def test_state_does_not_grow_with_the_prompt():
    model = MIXERS["hyena-3"]()
    sizes = set()
    for prompt in (1, 10, 1000):
        cache = ff.DecodingCache(model, 2, 16)
        model(torch.randn(2, prompt, CHANNELS), cache)
        for _ in range(2):  # the first of them can be taken back, with the prompt
            model(torch.randn(2, 1, CHANNELS), cache)
        sizes.add(cache.nbytes)
    assert len(sizes) == 1


def test_filters_of_equal_shape_share_a_cache():
    model = ff.DecodingCache(Stack(), 1, 8)
    assert [cache.layers for cache in model.caches] == [3, 1]
    assert model.fused is None


def test_a_rejected_call_changes_nothing():
    model = Stack().double()
    x = torch.randn(2, 10, CHANNELS, dtype=torch.float64)
    cache = ff.DecodingCache(model, 2, 3)
    run_split(model, x[:, :8], range(6, 8), cache)
    with pytest.raises(ValueError, match="expected inputs of 2 rows"):
        model(x[:1, :1], cache)
    with pytest.raises(ValueError, match=r"at most 1 more positions in row 0 .* got 2"):
        model(x[:, 8:], cache)
    with torch.enable_grad(), pytest.raises(ValueError, match="autograd-free"):
        model(x[:, 8:9].clone().requires_grad_(), cache)
    y = model(x[:, 8:9], cache)
    torch.testing.assert_close(y, model(x)[:, 8:9], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="at most 0 more positions"):
        model(x[:, 9:], cache)


def test_calls_out_of_order_are_refused():
    model = Stack()
    cache = ff.DecodingCache(model, 1, 4)
    x = torch.randn(1, 4, CHANNELS)
    with pytest.raises(ValueError, match=r"order of model\.modules"):
        model.mixers[1](x, cache)
    model.mixers[0](x, cache)
    with pytest.raises(ValueError, match="clone needs a finished call"):
        cache.clone()
    cache.reset()
    model(x, cache)


def test_a_model_without_mixers_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no ff\.nn mixers"):
        ff.DecodingCache(nn.Linear(2, 2), 1, 4)
