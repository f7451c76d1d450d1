"""Fused tokens of the language model against the layers one by one."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from futurefill_kernels import DecodingCache, Plan, native
from futurefill_kernels.nn import LanguageModelConfig
from futurefill_kernels.nn.language_model import GatedMLP

from .models import CONFIGS, make_model

pytestmark = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)


def logits_of(model, cache, ids, prompt):
    """Logits (B, T - prompt, V) of steps after a prefill."""
    with torch.no_grad():
        model(ids[:, :prompt], cache=cache)
        steps = [model(ids[:, t : t + 1], cache=cache) for t in range(prompt, ids.shape[1])]
    return torch.cat(steps, 1)


def assert_close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 8, 13])
def test_fused_equals_layer_by_layer(config, batch):
    model = make_model(config)
    ids = torch.randint(config.vocabulary, (batch, 40))
    fused, plain = DecodingCache(model, batch, 35), DecodingCache(model, batch, 35, fused=False)
    assert fused.not_fused == []
    assert plain.not_fused == ["fused=False"]
    assert_close(logits_of(model, fused, ids, 5), logits_of(model, plain, ids, 5))
    assert fused.positions.tolist() == plain.positions.tolist() == [35] * batch
    with torch.no_grad(), pytest.raises(ValueError, match="at most 0 more positions"):
        model(ids[:, :1], cache=fused)
    parallel = model(ids)[:, 5:]
    assert_close(logits_of(model, DecodingCache(model, batch, 35), ids, 5), parallel)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [CONFIGS[1], CONFIGS[3]])
def test_fused_in_every_dtype(config, dtype):
    """Values between the layers are float32 or wider: no further from a float64 model with the same
    weights than layers one by one.
    """
    model = make_model(config).to(dtype)
    ids = torch.randint(config.vocabulary, (5, 30))
    fused, plain = DecodingCache(model, 5, 25), DecodingCache(model, 5, 25, fused=False)
    assert fused.not_fused == []
    got, by_layer = logits_of(model, fused, ids, 5), logits_of(model, plain, ids, 5)
    assert got.dtype == by_layer.dtype == dtype
    exact = model.double()(ids)[:, 5:]
    error, error_by_layer = (
        float((y.double() - exact).norm() / exact.norm()) for y in (got, by_layer)
    )
    if dtype == torch.float64:
        assert error < 1e-13
    else:
        assert error < 1.1 * error_by_layer


@torch.no_grad()
@pytest.mark.parametrize("state_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", CONFIGS)
def test_fused_on_a_state_of_16_bits(config, state_dtype):
    """The state's rounding is most of the error, fused or not; crop and retry leave its bits."""
    model = make_model(config)
    ids, options = torch.randint(config.vocabulary, (5, 40)), {"state_dtype": state_dtype}
    fused, plain = (
        DecodingCache(model, 5, 35, rollback=4, **options),
        DecodingCache(model, 5, 35, fused=False, **options),
    )
    assert fused.not_fused == []
    got, by_layer = logits_of(model, fused, ids, 5), logits_of(model, plain, ids, 5)
    fused.crop(31)
    again = [model(ids[:, t : t + 1], cache=fused) for t in range(36, 40)]
    assert torch.equal(torch.cat(again, 1), got[:, -4:])
    wide = logits_of(model, DecodingCache(model, 5, 35), ids, 5)
    exact = model.double()(ids)[:, 5:]
    error, error_by_layer, wide_error = (
        float((y.double() - exact).norm() / exact.norm()) for y in (got, by_layer, wide)
    )
    assert 10 * wide_error < error < 1.1 * error_by_layer


@torch.no_grad()
def test_filters_may_be_of_another_dtype_and_activations_wider():
    """Filters stay float32 in a bfloat16 model; a prompt under autocast widens what its caches
    take.
    """
    model = make_model(CONFIGS[0]).bfloat16()
    for module in model.modules():
        if isinstance(module, ff.nn.LongFilter):
            module.float()
    ids = torch.randint(50, (2, 9))
    cache, plain = DecodingCache(model, 2, 9), DecodingCache(model, 2, 9, fused=False)
    assert cache.not_fused == []
    got, expected = (logits_of(model, c, ids, 3).float() for c in (cache, plain))
    torch.testing.assert_close(got, expected, rtol=0, atol=0.05 * float(expected.abs().max()))
    wide = DecodingCache(model, 2, 9)
    for each in wide.caches:
        each.widen(torch.float32)
    got = logits_of(model, wide, ids, 3).float()
    torch.testing.assert_close(got, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("config", [CONFIGS[2], CONFIGS[3]])
def test_a_row_has_the_same_bits_whatever_the_rows_beside_it(config, dtype):
    model = make_model(config).to(dtype)
    ids = torch.randint(config.vocabulary, (29, 12))
    cache = DecodingCache(model, 29, 12)
    model(ids[:, :1], cache=cache)  # a prompt: torch's products
    caches = [cache.clone() for _ in range(12)]
    for t in range(1, 12):
        token = ids[:, t : t + 1]
        expected = model(token, cache=cache)
        for rows, other in zip(range(1, 13), caches, strict=True):
            chosen = [(7 * i + 3) % 29 for i in range(rows)]
            with other.select(rows=chosen):
                assert torch.equal(model(token[chosen], cache=other), expected[chosen])
    assert caches[4].positions.tolist() == [11 * (r in (3, 10, 17, 24, 2)) for r in range(29)]


@torch.no_grad()
def test_fused_tokens_are_the_same_with_any_number_of_threads():
    model = make_model(LanguageModelConfig(channels=192, layers=1, context_length=64))
    ids = torch.randint(256, (8, 40))
    prompted = DecodingCache(model, 8, 39, plan=Plan(39, (8, 16)))
    model(ids[:, :1], cache=prompted)  # torch's products: their bits may differ with the threads
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            cache = prompted.clone()
            steps = [model(ids[:, t : t + 1], cache=cache) for t in range(1, 40)]
            found.append(torch.cat(steps, 1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert_close(found[0], model(ids)[:, 1:])


def test_mixed_with_rows_prompts_clone_and_reorder():
    model = make_model(CONFIGS[0])
    ids = torch.randint(50, (3, 60))
    expected = model(ids)
    cache = DecodingCache(model, 3, 50)
    position = [0, 0, 0]

    def call(rows, width, selected=True):
        part = torch.stack([ids[r, position[r] : position[r] + width] for r in rows])
        if selected:
            with cache.select(rows=rows):
                logits = model(part, cache=cache)
        else:
            logits = model(part, cache=cache)
        for i, r in enumerate(rows):
            assert_close(logits[i], expected[r, position[r] : position[r] + width])
            position[r] += width

    with torch.no_grad():
        call([0, 1], 4)
        call([2], 7)
        for _ in range(5):
            call([0, 1, 2], 1, selected=False)
        call([1], 1)
        call([1, 0], 3)
        for _ in range(5):
            call([0, 1, 2], 1, selected=False)
        other = cache.clone()
        token = torch.stack([ids[r, position[r] : position[r] + 1] for r in range(3)])
        first = model(token, cache=cache)
        assert torch.equal(model(token, cache=other), first)
        other.reorder([2, 0, 0])
        again = model(token, cache=other)
        cache.reorder([2, 0, 0])
        assert torch.equal(model(token, cache=cache), again)
        cache.reset()
        position[:] = [0, 0, 0]
        call([0, 1, 2], 2, selected=False)
        call([0, 1, 2], 1, selected=False)
        call([0, 1, 2], 1, selected=False)


def test_a_returned_token_is_not_overwritten():
    model = make_model(CONFIGS[0])
    cache = DecodingCache(model, 1, 9)
    with torch.no_grad():
        model(torch.tensor([[1, 2]]), cache=cache)
        first = model(torch.tensor([[3]]), cache=cache)
        kept = first.clone()
        model(torch.tensor([[4]]), cache=cache)
    assert torch.equal(first, kept)


def test_ids_outside_the_vocabulary_change_nothing():
    model = make_model(CONFIGS[0])
    cache = DecodingCache(model, 2, 9)
    with torch.no_grad():
        model(torch.tensor([[1, 2], [3, 4]]), cache=cache)
        model(torch.tensor([[5], [6]]), cache=cache)
        other = cache.clone()
        with pytest.raises(RuntimeError, match=r"ids in 0 \.\. 49, got 50"):
            model(torch.tensor([[7], [50]]), cache=cache)
        token = torch.tensor([[7], [8]])
        assert torch.equal(model(token, cache=cache), model(token, cache=other))


@torch.no_grad()
def test_streams_are_bound_again_where_their_tensors_are_others():
    model = make_model(CONFIGS[0])
    cache, ids = DecodingCache(model, 2, 20), torch.randint(50, (2, 9))
    model(ids[:, :3], cache=cache)
    for t in range(3, 9):
        copies = copy.copy(cache.fused), copy.deepcopy(cache.fused)
        assert [c._streams for c in copies] == [None, None]
        other = cache.clone()
        token = ids[:, t : t + 1]
        assert torch.equal(model(token, cache=other), model(token, cache=cache))
        for each in cache.caches:
            state = dataclasses.replace(each.state, ring=each.state.ring.clone())
            each._hold(each._parts_of(state, None))


def test_gradients_are_refused_as_layer_by_layer():
    model = make_model(CONFIGS[0]).requires_grad_(True)
    cache = DecodingCache(model, 1, 9)
    with torch.no_grad():
        model(torch.tensor([[1, 2]]), cache=cache)
    with pytest.raises(ValueError, match="requires grad"):
        model(torch.tensor([[3]]), cache=cache)


@torch.no_grad()
@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[3]])
def test_biases_and_sizes_are_those_of_the_modules(config):
    """Not those of the configuration, which may have been left behind."""
    model = make_model(config)
    model.embedding = nn.Embedding(77, config.channels)
    for block in model.blocks:
        block.mlp = GatedMLP(config.channels, 21, "gelu")
        block.mlp.down = nn.Linear(21, config.channels)
        if config.mixer == "stu":
            block.mixer.proj = nn.Linear(config.channels, config.channels)
    ids = torch.randint(77, (2, 12))
    cache = DecodingCache(model, 2, 9)
    assert cache.not_fused == []
    assert_close(logits_of(model, cache, ids, 3), model(ids)[:, 3:])


def test_the_shipped_model_gives_the_tokens_of_the_parallel_form():
    model = ff.nn.load_model()
    prompt = torch.tensor([list(b"def main(")])
    new = ff.decode(model, prompt, 48)
    with torch.no_grad():
        logits = model(torch.cat([prompt, new], 1))[:, prompt.shape[1] - 1 : -1]
    best = logits.amax(-1)
    # of two that differ by less than rounding either is a best token
    rounding = 2e-5 * float(logits.abs().max())
    chosen = logits.gather(-1, new[..., None])[..., 0]
    assert float((best - chosen).max()) <= 2 * rounding
    clear = best - logits.topk(2).values[..., 1] > 2 * rounding
    assert clear.float().mean() > 0.9
    assert torch.equal(logits.argmax(-1)[clear], new[clear])
