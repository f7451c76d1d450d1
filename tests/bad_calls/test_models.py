"""Calls of a model with a cache, of a decoder, of samplers, and the parts of the message."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from tests.bad_calls.refusals import (
    bytes_of,
    expect_refusal,
    expect_same_bytes,
    refusal,
)
from tests.decoding.models import VOCABULARY, make

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])

MODEL = {
    "other rows": (lambda m, c: m(IDS[:1], cache=c), "2 rows", "got 1 rows"),
    "no ids": (lambda m, c: m(IDS[:, :0], cache=c), "at least one position", "0 positions"),
    "no room": (lambda m, c: m(IDS.repeat(1, 9), cache=c), "at most 7", "row 0", "got 27"),
    "select: rows": (lambda m, c: c.select([2]).__enter__(), "rows", "0 .. 1", "[2]"),
    "select: lengths": (
        lambda m, c: call_with(m, c, lengths=[4, 1]), "lengths", "1 .. 3", "[4, 1]",
    ),
    "reset": (lambda m, c: c.reset([5]), "rows", "0 .. 1", "[5]"),
    "reorder": (lambda m, c: c.reorder([0]), "rows", "(2,)", "(1,)"),
    "another mixer": (
        lambda m, c: m.mixers[1](torch.zeros(2, 1, 16).double(), c), "order of model.modules",
    ),
}  # fmt: skip


def call_with(model, cache, **selection):
    with cache.select(**selection):
        model(IDS, cache=cache)


@pytest.mark.parametrize("case", MODEL)
@torch.no_grad()
def test_a_refused_call_of_a_model(case):
    call, *parts = MODEL[case]
    model = make("long-conv")
    cache = ff.DecodingCache(model, 2, 10)
    model(IDS, cache=cache)
    for t in range(3):
        model(IDS[:, t : t + 1], cache=cache)
    untouched = cache.clone()
    expect_refusal(lambda c: call(model, c), cache, parts)
    assert cache.positions.tolist() == [3, 3]
    for _ in range(3):
        found, right = model(IDS[:, :1], cache=cache), model(IDS[:, :1], cache=untouched)
        assert torch.equal(found, right)


DECODER = {
    "too many prompts": (lambda d: d([IDS[0]] * 3), "batch_size = 2", "got 3"),
    "too many tokens": (lambda d: d(IDS, 9), "max_new_tokens", "0 .. 8", "got 9"),
    "tokens as a float": (lambda d: d(IDS, 2.5), "max_new_tokens", "integer", "2.5"),
    "no ids": (lambda d: d(IDS[:, :0]), "empty prompt", "(2, 0)"),
    "a flat prompt": (lambda d: d(IDS[0]), "prompt ids (B, P)", "(3,)"),
    "a prompt of floats": (lambda d: d(IDS.float()), "prompt", "integer dtype", "float32"),
    "a prompt of nothing": (lambda d: d(None), "prompt ids (B, P)"),
    "an id too large": (lambda d: d(IDS + VOCABULARY), "0 .. 49", "vocabulary"),
    "lengths": (lambda d: d(IDS, lengths=[9, 1]), "lengths", "1 .. 3", "[9, 1]"),
    "one stop id": (lambda d: d(IDS, stop_ids=10), "stop_ids", "sequence of integers", "10"),
    "stop ids as floats": (lambda d: d(IDS, stop_ids=[1.0]), "stop_ids", "integers", "1.0"),
    "stop id too large": (lambda d: d(IDS, stop_ids=[99]), "0 .. 49", "got 99"),
    "pad_id": (lambda d: d(IDS, pad_id=None), "pad_id", "integer", "None"),
    "seeds": (lambda d: d(IDS, sampler=ff.RandomSampler(seed=[1])), "seed", "(2,)", "(1,)"),
}


@pytest.mark.parametrize("case", DECODER)
def test_a_refused_request(case):
    call, *parts = DECODER[case]
    decoder = ff.Decoder(make("long-conv"), 2, 8)
    first = decoder(IDS, 4)
    positions = decoder.cache.positions.tolist()
    expect_refusal(call, decoder, parts)
    assert decoder.cache.positions.tolist() == positions
    assert torch.equal(decoder(IDS, 4), first)


MODEL_CACHES = {
    "memory": ({"memory": "tiny"}, "memory", "'small'", "'tiny'"),
    "filters_dtype": ({"filters_dtype": torch.float16}, "filters_dtype", "bfloat16", "float16"),
    "endless": ({"max_new_tokens": None}, "max_new_tokens", "integer", "None"),
    "memory with slack": (
        {"memory": "small", "plan": ff.Plan(8, (2, 4), slack_from=4)},
        "memory='speed'", "slack", "'small'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MODEL_CACHES)
@pytest.mark.parametrize("make_one", [ff.DecodingCache, ff.Decoder])
def test_a_refused_making_for_a_model(case, make_one):
    given, *parts = MODEL_CACHES[case]
    options = {"max_new_tokens": 8} | given
    expect_refusal(lambda model: make_one(model, 2, **options), make("long-conv"), parts)


SAMPLER = {
    "temperature": (lambda: ff.RandomSampler(0.0), "temperature", "> 0", "0.0"),
    "top_k": (lambda: ff.RandomSampler(top_k=0), "top_k", ">= 1", "0"),
    "top_p": (lambda: ff.RandomSampler(top_p=1.5), "top_p", "(0, 1]", "1.5"),
    "seed": (lambda: ff.RandomSampler(seed=0.5), "seed", "integers", "0.5"),
}


@pytest.mark.parametrize("case", SAMPLER)
def test_a_refused_sampler(case):
    call, *parts = SAMPLER[case]
    expect_refusal(lambda _: call(), None, parts)


def test_logits_that_are_nan_are_no_token():
    model = make("long-conv")
    prompt = IDS[:1]
    with torch.no_grad():
        model.head.bias[3] = torch.nan
    for sampler in (None, ff.RandomSampler()):
        with refusal("logits without NaN, got NaN in rows [0]"):
            ff.decode(model, prompt, 4, sampler=sampler)


@torch.no_grad()
def test_activations_wider_than_the_arithmetic():
    mixer = ff.nn.LongConv(4, 16)
    cache = ff.DecodingCache(mixer, 1, 8)
    mixer(torch.ones(1, 3, 4), cache)
    before = bytes_of(cache.caches[0])
    with refusal("at most torch.float32", "torch.float64"):
        mixer(torch.ones(1, 1, 4).double(), cache)
    expect_same_bytes(before, bytes_of(cache.caches[0]))


def test_a_tiny_temperature_is_greedy():
    logits = torch.tensor([[0.5, 3.0, 2.9], [1e30, -1e30, 0.0]])
    for temperature in (1e-38, 1e-300):
        sampler = ff.RandomSampler(temperature)
        assert sampler(logits, 0).tolist() == [1, 0]
        torch.testing.assert_close(
            sampler.probabilities(logits), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        )
