"""Fused tokens on a GPU: launched, replayed, with and without dependent launches, and unfused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from futurefill_kernels import DecodingCache
from futurefill_kernels.decoding.graphs import CudaGraphs
from futurefill_kernels.nn import LanguageModelConfig
from futurefill_kernels.nn.token import gpu

from .models import make_model

STEPS = 70
HYENA = LanguageModelConfig(
    vocabulary=300, context_length=80, channels=192, layers=4, mlp_hidden=512
)
STU = replace(HYENA, channels=200, mixer="stu", spectral_filters=8, activation="gelu")
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 5e-2, torch.float16: 6e-3}


def launched(model, ids, cache):
    """Logits (B, T, V) of tokens that the host launches."""
    return torch.cat([model(ids[:, t : t + 1], cache=cache) for t in range(ids.shape[1])], 1)


def replayed(model, ids, cache, side):
    """The same by replays of one graph. side: whether the history runs on a stream of its own."""
    graphs = CudaGraphs(ids.device)
    token, found = ids[:, :1].clone(), []

    def call():
        with cache.capture():
            cache.sum_history(graphs.side if side else None)
            found.append(model(token, cache=cache))

    cache.begin_token()
    replay = graphs.capture(call)
    logits = []
    for t in range(ids.shape[1]):
        if t > 0:
            cache.begin_token()
            token.copy_(ids[:, t : t + 1])
        replay()
        logits.append(found[0].clone())
        cache.finish_token()
    return torch.cat(logits, 1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("config", [HYENA, STU], ids=["hyena", "stu"])
def test_every_way_gives_the_same_logits(config, batch, dtype, impl, monkeypatch):
    """A kernel that reads before the one before it has written would differ somewhere in them."""
    model = make_model(config).to(dtype)
    ids = torch.randint(config.vocabulary, (batch, STEPS))

    def prompted(fused=True):
        cache = DecodingCache(model, batch, STEPS, impl=impl, fused=fused)
        model(ids[:, :2], cache=cache)
        return cache

    cache = prompted()
    if not isinstance(cache.fused, gpu.FusedToken):
        pytest.skip(f"not fused on a GPU: {'; '.join(cache.not_fused) or f'impl={impl}'}")
    tokens = ids[:, 2:]
    got, expected = launched(model, tokens, cache), launched(model, tokens, prompted(fused=False))
    largest = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE[dtype] * largest)
    for side in (False, True):
        assert torch.equal(replayed(model, tokens, prompted(), side), got)
    monkeypatch.setattr("futurefill_kernels.nn.token.gpu_launches.can_depend", lambda device: False)
    assert torch.equal(launched(model, tokens, prompted()), got)
