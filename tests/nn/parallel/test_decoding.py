"""Tokens over ranks: the same on all, and those of the whole model."""

from __future__ import annotations

import pytest
import torch

from tests.fast import combinations
from tests.nn.parallel.ranks import results
from tests.nn.parallel.stories import TIE, generations, model_of, over, same_tokens, stream

NAMES = (
    "language-model", "hyena-3", "stu", "stu-full", "long-conv", "stu-lm", "stu-full-lm", "shipped",
)  # fmt: skip


def _everything(rank, name, n, dtype):
    model = over(n, model_of(name, dtype))
    return stream(model), generations(model)


#: Ranks and models; four ranks on fewer cores take turns in every sum, so few of these.
CASES = (
    *((2, name) for name in NAMES),
    *((4, name) for name in ("language-model", "long-conv", "stu-lm", "shipped")),
    (1, "language-model"),
)


@pytest.mark.parametrize(("n", "name"), combinations(CASES, fast=[(2, "language-model")]))
def test_tokens_are_those_of_the_whole_model(n, name):
    found = results(n, _everything, name, n, "float64")
    model = model_of(name)
    logits, ids = stream(model), generations(model)
    for other_logits, other_ids in found:
        assert torch.equal(other_logits, found[0][0])
        torch.testing.assert_close(other_logits, logits, rtol=1e-9, atol=1e-9)
        assert torch.equal(other_ids, ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shipped", "stu-lm"])
def test_float32_tokens_differ_at_ties_alone(name):
    model = model_of(name, "float32")
    whole, compared = stream(model), 0
    for n in (2, 4):
        found = results(n, _everything, name, n, "float32")
        for logits, ids in found:
            assert torch.equal(logits, found[0][0])
            assert torch.equal(ids, found[0][1])
            differ, tied = same_tokens(logits, whole, TIE)
            assert differ == 0
            compared += whole[..., 0].numel() - tied
    assert compared > 0.9 * 6 * whole[..., 0].numel()
