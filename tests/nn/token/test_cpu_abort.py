"""Fused tokens that stop inside and are taken back."""

from __future__ import annotations

import itertools

import pytest
import torch

import futurefill_kernels as ff
from bench.campaign.interrupts import Interrupt, interrupted
from futurefill_kernels import DecodingCache, native
from futurefill_kernels.nn.token import cpu, program

from .models import CONFIGS, make_model

pytestmark = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"no CPU kernels: {native.cpu_unavailable_reason()}",
)


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


def take(model, ids, cache, rows):
    """A token of some rows."""
    with cache.select(rows=rows):
        return model(ids, cache=cache)
