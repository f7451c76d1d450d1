"""An adapted model against the full recomputation of the model that it was made of."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

import futurefill_kernels as ff

from .public_models import LONGEST, VOCABULARY
from .rows import relative_error


class Agreement(NamedTuple):
    """Errors relative to the largest logit, and how many greedy tokens are the same.

    near_ties: tokens whose two best logits are within 1e-4 of the largest.
    """

    parallel: float
    teacher_forced: float
    same: int
    tokens: int
    near_ties: int


@torch.no_grad()
def agreement(model: nn.Module, prompt: int = 8, new: int = 64) -> Agreement:
    """Its own forward is given its full length: some public code is right for no other."""
    generator = torch.Generator("cpu").manual_seed(0)
    ids = torch.randint(VOCABULARY, (2, LONGEST), generator=generator, device="cpu")

    def full(ids: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(ids, (0, LONGEST - ids.shape[1]))
        logits: torch.Tensor = model(padded)[:, : ids.shape[1]]
        return logits

    adapted, expected = ff.adapt(model), full(ids)
    cache = ff.DecodingCache(adapted, 2, LONGEST - 9)
    cuts = [0, 9, 20, *range(21, LONGEST + 1)]
    pieces = [adapted(ids[:, a:b], cache=cache) for a, b in pairwise(cuts)]
    whole, ties = ids[:, :prompt], 0
    for _ in range(new):
        best = full(whole)[:, -1].topk(2)
        near = best.values[:, 0] - best.values[:, 1] < 1e-4 * expected.abs().max()
        ties += int(near.sum())
        whole = torch.cat([whole, best.indices[:, :1]], 1)
    found = ff.decode(adapted, ids[:, :prompt], new)
    return Agreement(
        relative_error(adapted(ids), expected),
        relative_error(torch.cat(pieces, 1), expected),
        int((found == whole[:, prompt:]).sum()),
        found.numel(),
        ties,
    )
