"""Models over ranks: the outputs, weights and bytes of the whole ones."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module

import futurefill_kernels as ff
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
