"""What is done with a model, whole or over ranks, and compared."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module

import futurefill_kernels as ff
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig
from tests.decoding.models import MODELS, make

DTYPES = {"float64": torch.float64, "float32": torch.float32}
#: Below this the two best logits are a tie in float32.
TIE = 1e-4


def model_of(name, dtype="float64"):
    """A model of `MODELS`, the shipped one, or an STU language model."""
    if name in MODELS:
        return make(name).to(DTYPES[dtype])
    if name == "shipped":
        return ff.nn.load_model().to(DTYPES[dtype])
    torch.manual_seed(5)
    sizes = {"context_length": 256, "channels": 32, "layers": 2, "mlp_hidden": 48}
    config = LanguageModelConfig(
        **sizes, mixer="stu", spectral_filters=6, tensorised=name == "stu-lm"
    )
    model = LanguageModel(config)
    with torch.no_grad():
        model.embedding.weight *= 50
        model.norm.weight.copy_(torch.randn(32))
    return model.to(DTYPES[dtype]).eval()


def over(n, model):
    """The model cut over the n ranks that run this."""
    return parallelize_module(model, init_device_mesh("cpu", (n,)), ff.nn.parallel_plan(model))


def vocabulary_of(model):
    return next(m for m in model.modules() if isinstance(m, torch.nn.Embedding)).num_embeddings


def prompts(model, width=9, rows=2):
    generator = torch.Generator("cpu").manual_seed(3)
    return torch.randint(0, vocabulary_of(model), (rows, width), generator=generator)


@torch.no_grad()
def follow(model, ids, cache, steps, found):
    """Greedy steps from ids (B, T) on; logits are appended. Returns the next ids (B, 1)."""
    for _ in range(steps):
        logits = model(ids, cache=cache)[:, -1]
        found.append(logits)
        ids = logits.argmax(-1, keepdim=True)
    return ids


def stream(model):
    """Prompt in two chunks, steps, a chunk inside the stream, a crop, rows of their own, steps:
    the logits of every step, (n, 2, V).
    """
    cache = ff.DecodingCache(model, 2, 40, rollback=8)
    ids, found = prompts(model), []
    with torch.no_grad():
        model(ids[:, :4], cache=cache)
    ids = follow(model, ids[:, 4:], cache, 9, found)
    follow(model, torch.cat([ids, prompts(model, 3)], 1), cache, 3, found)
    cache.crop(10)
    ids = follow(model, ids, cache, 4, found)
    with cache.select(rows=[1, 0]):
        follow(model, ids.flip(0), cache, 1, found)
    cache.reorder([1, 1])
    follow(model, ids, cache, 2, found)
    return torch.stack(found)


def generations(model):
    """What decode and a Decoder make of prompts of two lengths: (5, 2, n) ids."""
    rows = list(prompts(model))
    rows[1] = rows[1][:5]
    sampler = ff.RandomSampler(0.8, top_k=20, seed=[7, 11])
    decoder = ff.Decoder(model, 3, 12)
    found = [
        ff.decode(model, rows, 12),
        ff.decode(model, rows, 12, sampler=sampler),
        decoder(rows, sampler=sampler),
        decoder(rows, stop=[[3]], callback=lambda ids, t: t == 8),
        torch.stack(list(decoder.iterate(rows, 12)), 1),
    ]
    return torch.stack(found)


def same_tokens(logits, whole, tie):
    """Choices that differ, and choices left out: after a step whose two best logits are closer
    than tie, a row's tokens may be others. Both (n, B, V).
    """
    best = whole.topk(2).values
    tied = (best[..., 0] - best[..., 1]).cummin(0).values <= tie
    differ = (logits.argmax(-1) != whole.argmax(-1)) & ~tied
    return int(differ.sum()), int(tied.sum())
