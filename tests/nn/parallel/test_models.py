"""Models over ranks: the outputs, weights and bytes of the whole ones."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module

import futurefill_kernels as ff
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig
from futurefill_kernels.planning.rank_plan import ModelSizes
from tests.decoding.models import MODELS, VOCABULARY, make
from tests.fast import combinations
from tests.nn.parallel.ranks import results


def parallel(name, n):
    """A model of `MODELS`, cut over all ranks."""
    model = make(name)
    return parallelize_module(model, init_device_mesh("cpu", (n,)), ff.nn.parallel_plan(model))


def _ids():
    return torch.randint(0, VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(3))


def _forward(rank, name, n):
    with torch.no_grad():
        return parallel(name, n)(_ids())


@pytest.mark.parametrize(("n", "name"), combinations((2, 4), MODELS, fast=[(2, "long-conv")]))
def test_outputs_are_those_of_the_whole_model(n, name):
    found = results(n, _forward, name, n)
    with torch.no_grad():
        whole = make(name)(_ids())
    for logits in found:
        assert torch.equal(logits, found[0])
        torch.testing.assert_close(logits, whole, rtol=1e-10, atol=1e-10)


def _bytes(rank, n, mixer, impl):
    """Weights and state that this rank holds, and what the formula says of both."""
    torch.manual_seed(0)
    config = LanguageModelConfig(37, 64, 24, 3, 40, 20, mixer, spectral_filters=5)
    model = LanguageModel(config)
    parallelize_module(model, init_device_mesh("cpu", (n,)), ff.nn.parallel_plan(model))
    cache = ff.DecodingCache(model, 2, 64, impl=impl)
    sizes = ModelSizes(24, 3, 40, 37, 64, 2, mixer, filter_hidden=20, spectral_filters=5)
    state = cache.caches[0].state
    expected = sizes.state_nbytes(n, cache.plan, state.layout, state.filters.shape[2])
    held = sum(p.nbytes for p in model.parameters()), cache.nbytes
    return held, (sizes.weight_nbytes(n), expected)


@pytest.mark.parametrize(
    ("n", "mixer", "impl"),
    combinations((1, 2, 4), ("hyena", "stu"), ("reference", "auto"), fast=[(2, "hyena", "auto")]),
)
def test_a_rank_holds_the_bytes_of_the_formula(n, mixer, impl):
    for held, expected in results(n, _bytes, n, mixer, impl):
        assert held == expected
