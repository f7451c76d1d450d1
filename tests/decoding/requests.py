"""Requests to a `Decoder`, and what their tokens are."""

from __future__ import annotations

import torch

import futurefill_kernels as ff
from futurefill_kernels.decoding.sampling import RandomSampler, greedy
from tests.decoding.models import VOCABULARY

STEPS = 20


PLAN = ff.Plan(STEPS, (4, 8))


class StopHereError(Exception):
    pass


def prompts_of(*lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (n,), generator=generator) for n in lengths]


@torch.no_grad()
def plain(model, prompts, steps, sampler=greedy, stop_ids=(), pad_id=0):
    """The specification: the parallel form on everything so far, for every token and row."""
    found = torch.full((len(prompts), steps), pad_id)
    for b, ids in enumerate(prompts):
        for t in range(steps):
            logits = model(ids[None])[:, -1]
            if isinstance(sampler, RandomSampler):
                one = RandomSampler(
                    sampler.temperature, top_k=sampler.top_k, top_p=sampler.top_p,
                    seed=sampler.seeds(len(prompts))[b],
                )  # fmt: skip
                drawn = one(logits, t)
            else:
                drawn = sampler(logits)
            found[b, t] = drawn
            ids = torch.cat([ids, drawn])
            if int(drawn) in stop_ids:
                break
    return found


def rows_as_if_fed(decoder, model, prompts, tokens, tolerance=1e-9):
    """Whether the cache continues as one that has been fed with prompts and then tokens (R, n)."""
    cache = decoder.cache
    rows = [torch.cat([p, t]) for p, t in zip(prompts, tokens, strict=True)]
    assert cache.positions.tolist()[: len(rows)] == [tokens.shape[1]] * len(rows)
    following = torch.randint(VOCABULARY, (cache.batch_size, 3))
    with torch.no_grad():
        for t in range(min(3, cache.max_new_tokens - tokens.shape[1])):
            logits = model(following[:, t : t + 1], cache=cache)[:, 0]
            rows = [torch.cat([r, f[t : t + 1]]) for r, f in zip(rows, following, strict=False)]
            for b, ids in enumerate(rows):
                torch.testing.assert_close(
                    logits[b], model(ids[None])[0, -1], rtol=0, atol=tolerance
                )
