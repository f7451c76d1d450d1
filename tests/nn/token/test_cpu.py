"""Fused tokens of the language model against the layers one by one, and what refuses to fuse."""

from __future__ import annotations

import copy
import itertools
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from bench.campaign.interrupts import Interrupt, interrupted
from futurefill_kernels import DecodingCache, Plan, native
from futurefill_kernels.nn import LanguageModel, LanguageModelConfig
from futurefill_kernels.nn.language_model import GatedMLP
from futurefill_kernels.nn.token import cpu, program
from futurefill_kernels.nn.token.cpu import cannot_fuse

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
@pytest.mark.parametrize("rows", [None, [2, 0]])
@pytest.mark.parametrize(
    ("config", "order", "taps", "dtype"),
    [
        *((CONFIGS[0], o, t, torch.float32) for o, t in ((2, 1), (2, 4), (3, 2))),
        (CONFIGS[0], 2, 3, torch.bfloat16),
        (CONFIGS[3], 1, 0, torch.float32),
    ],
)
def test_an_unfinished_token_is_taken_back(config, order, taps, dtype, rows, monkeypatch):
    """Wherever it stops: the inputs that the next outputs need are those from before, bit for bit,
    and the token begun again is the one of a cache that never stopped.
    """
    model = make_model(config, order=order, short_taps=taps).to(dtype)
    cache = DecodingCache(model, 3, 20)
    model(torch.randint(50, (3, 9)), cache=cache)
    tokens = torch.randint(50, (4, 3, 1))[:, slice(None) if rows is None else rows]
    take(model, tokens[0], cache, rows)
    whole = cache.clone()
    expected = [take(model, token, whole, rows) for token in tokens[1:]]
    program = cache.fused.program
    instructions = sum(map(len, program.segments)) + len(program.convs)
    for ran in range(instructions + 1):
        broken = cache.clone()
        before = [state.inputs.clone() for state in broken._short.values()]
        with monkeypatch.context() as inside:
            stop_after(ran, inside)
            with pytest.raises(InterruptedError):
                take(model, tokens[1], broken, rows)
        moved = sum(
            not torch.equal(state.inputs, then)
            for state, then in zip(broken._short.values(), before, strict=True)
        )
        assert moved == len(before) or ran < instructions
        broken.abort()
        assert broken.positions.tolist() == cache.positions.tolist()
        for state, then in zip(broken._short.values(), before, strict=True):
            assert torch.equal(state.inputs[:, 1:], then[:, 1:])
        broken.fused._streams = None  # whole programs again
        for token, logits in zip(tokens[1:], expected, strict=True):
            assert torch.equal(take(model, token, broken, rows), logits)


def stop_after(count, patch):
    """A token ends after so many instructions."""
    patch.setattr(cpu, "encode", lambda instructions: program.encode(instructions)[:count])

    def stopped(*arguments):
        raise InterruptedError

    patch.setattr(ff.FutureFillCache, "finish_token", stopped)


@torch.no_grad()
def test_an_unfinished_token_of_some_rows_leaves_the_others(monkeypatch):
    model = make_model(CONFIGS[0])
    cache = DecodingCache(model, 4, 20)
    model(torch.randint(50, (4, 9)), cache=cache)
    for count in (4, 3, 2):
        take(model, torch.randint(50, (count, 1)), cache, None if count == 4 else range(count))
    whole, token = cache.clone(), torch.randint(50, (4, 1))
    with monkeypatch.context() as inside:
        stop_after(1000, inside)
        with pytest.raises(InterruptedError):
            take(model, token[:2], cache, [3, 1])
    cache.abort()
    assert cache.positions.tolist() == [3, 3, 2, 1]
    for _ in range(9):
        assert torch.equal(model(token, cache=cache), model(token, cache=whole))


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
            each.state.ring = each.state.ring.clone()


def take(model, ids, cache, rows):
    """A token of some rows."""
    with cache.select(rows=rows):
        return model(ids, cache=cache)


@torch.no_grad()
def test_an_interrupt_before_a_token_has_run_leaves_the_one_before_it():
    model = make_model(CONFIGS[0])
    ids, tokens = torch.randint(50, (3, 9)), torch.randint(50, (2, 3, 1))
    for n in itertools.count():
        cache = DecodingCache(model, 3, 20)
        model(ids, cache=cache)
        model(tokens[0], cache=cache)
        whole = cache.clone()
        try:
            with interrupted(n):
                model(tokens[1], cache=cache)
        except Interrupt:
            cache.abort()
        else:
            break
        torch.testing.assert_close(model(tokens[1], cache=cache), model(tokens[1], cache=whole))
    assert n > 10


def test_gradients_are_refused_as_layer_by_layer():
    model = make_model(CONFIGS[0]).requires_grad_(True)
    cache = DecodingCache(model, 1, 9)
    with torch.no_grad():
        model(torch.tensor([[1, 2]]), cache=cache)
    with pytest.raises(ValueError, match="requires grad"):
        model(torch.tensor([[3]]), cache=cache)


def test_what_is_not_fused_says_why():
    class Other(LanguageModel):
        pass

    config = CONFIGS[0]
    assert DecodingCache(Other(config), 1, 4).not_fused == ["Other is not an ff.nn.LanguageModel"]
    mixed = make_model(config)
    mixed.norm.double()
    assert DecodingCache(mixed, 1, 4).not_fused == [
        "parameters that are not all of one of float32, bfloat16, float16, float64: "
        "float32, float64"
    ]
    model = make_model(config)
    assert DecodingCache(model, 1, 4, impl="reference").not_fused == ["impl='reference'"]
    full = LanguageModel(replace(CONFIGS[3], tensorised=False))
    assert DecodingCache(full, 1, 4).not_fused == [
        f"blocks.{i}.mixer.filter is futurefill_kernels.nn.stu.SpectralBank, not SpectralFilter"
        for i in range(3)
    ]


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def hook(*arguments):
    return None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: setattr(m, "norm", nn.Identity()), "norm is torch.* not RMSNorm"),
        (lambda m: setattr(m, "norm", nn.Linear(24, 24)), "norm is .*Linear, not RMSNorm"),
        (
            lambda m: setattr(m.blocks[1].mlp, "down", Doubled(40, 24, bias=False)),
            r"blocks.1.mlp.down is tests\..*Doubled, not Linear",
        ),
        (
            lambda m: setattr(m.blocks[0], "mixer", ff.nn.LongConv(24, 64)),
            "blocks.0.mixer is .*LongConv, not Hyena or STU",
        ),
        (
            lambda m: setattr(m.blocks[0], "extra", nn.Linear(2, 2)),
            "blocks.0.extra is torch.*Linear, not known",
        ),
        (
            lambda m: nn.utils.parametrizations.weight_norm(m.blocks[0].mlp.down),
            "mlp.down is .*ParametrizedLinear, not Linear",
        ),
        (lambda m: m.norm.register_forward_hook(hook), "norm has forward hooks"),
        (lambda m: m.register_forward_pre_hook(hook), "the model has forward hooks"),
        (
            lambda m: setattr(m.blocks[1].mixer.out_proj, "forward", hook),
            "blocks.1.mixer.out_proj has forward hooks or a forward of its own",
        ),
        (lambda m: setattr(m, "norm", nn.RMSNorm(24, elementwise_affine=False)), "norm has no wei"),
        (lambda m: setattr(m.embedding, "max_norm", 1.0), "embedding has a max_norm"),
    ],
)
def test_other_modules_are_never_fused(change, reason):
    model = make_model(CONFIGS[0])
    change(model)
    (first, *_) = cannot_fuse(model, [])
    assert re.search(reason, first), first


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
