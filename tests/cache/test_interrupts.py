"""Ctrl-C at any call inside a token or a block of tokens."""

from __future__ import annotations

import itertools

import pytest
import torch

import futurefill_kernels as ff
from bench.campaign.interrupts import Interrupt, interrupted
from tests.cache.layered import PROMPT, streams
from tests.oracles import relative_error


@pytest.mark.parametrize("retry", [False, True])
def test_an_interrupt_at_any_call_of_a_first_token(impl, retry):
    """Of rows that held another stream before, one of them inside a prompt."""
    stream, cache, _ = streams(impl, (4, 8, 16))
    for n in itertools.count():
        cache.reset()
        stream.got[:, :, :, :PROMPT] = stream.expected[:, :, :, :PROMPT]
        stream.prefill(cache, 0, PROMPT)
        try:
            with interrupted(n):
                cache.step(stream.u[0, ..., 0], 0)
        except Interrupt:
            if not retry:
                cache.abort()
                assert [cache.in_prompt(row) for row in range(2)] == [True, True]
        else:
            break
        for t in range(PROMPT, PROMPT + 9):
            stream.step(cache, t)
            assert not any(cache.in_prompt(row) for row in range(2))
        assert stream.error(PROMPT, PROMPT + 9) < 2e-6, n
        assert cache.positions.tolist() == [9, 9]
    assert n > 5


@pytest.mark.parametrize("layer", [0, 1])
def test_an_interrupt_at_any_call_of_an_empty_rows_first_token(impl, layer):
    stream, cache, _ = streams(impl, (4, 8, 16))
    for n in itertools.count():
        cache.reset()
        try:
            if layer:
                cache.step(stream.u[0, ..., 0], 0)
            with interrupted(n):
                cache.step(stream.u[layer, ..., 0], layer)
        except Interrupt:
            cache.abort()
        else:
            break
        for t in range(9):
            stream.step(cache, t)
        assert stream.error(0, 9) < 2e-6, n
    assert n > 5


@pytest.mark.parametrize("retry", [False, True])
def test_an_interrupt_at_any_call_of_rows_at_their_own_positions(impl, retry):
    """Of a token that is not the first of its kind; an implementation may go row by row."""
    g = torch.Generator().manual_seed(0)
    h, u = torch.randn(3, 30, generator=g) / 5, torch.randn(4, 3, 24, generator=g)
    expected = ff.reference.causal_conv(u.double(), h.double())
    prepared = ff.FutureFillCache(h, 4, 24, plan=ff.Plan(24, (2, 4)), impl=impl)
    ahead = [3, 1, 2, 0]

    def step(cache, t):
        y = cache.step(torch.stack([u[row, :, n + t] for row, n in enumerate(ahead)]))
        right = torch.stack([expected[row, :, n + t] for row, n in enumerate(ahead)])
        return (y - right).abs().max()

    for t in range(3):
        rows = [row for row, n in enumerate(ahead) if t < n]
        prepared.step(u[rows, :, t], rows=rows)
    for t in range(2):
        step(prepared, t)
    for n in itertools.count():
        cache = prepared.clone()
        step(cache, 2)
        try:
            with interrupted(n):
                step(cache, 3)
        except Interrupt:
            if not retry:
                cache.abort()
        else:
            break
        assert max(step(cache, t) for t in range(3, 12)) < 1e-5, n
    assert n


@pytest.mark.parametrize("method", ["run", "generate"])
@pytest.mark.parametrize("steps", [1, 5])
def test_an_interrupt_at_any_call_of_a_block(impl, method, steps):
    """Either all of it has been taken and nothing raises, or nothing has."""
    g = torch.Generator().manual_seed(0)
    h, u = torch.randn(3, 30, generator=g) / 5, torch.randn(2, 3, 24, generator=g)
    prepared = ff.FutureFillCache(h, 2, 24, plan=ff.Plan(24, (2, 4)), impl=impl)
    prepared.step(u[..., 0])
    for n in itertools.count():
        cache, stepped = prepared.clone(), prepared.clone()
        try:
            with interrupted(n):
                if method == "run":
                    cache.run(u[..., 1 : 1 + steps])
                else:
                    cache.generate(u[..., 1], steps)
        except Interrupt:
            cache.abort()
            assert cache.calls == prepared.calls, n
        else:
            assert cache.calls == prepared.calls + 1
            break
        for t in range(1, 9):
            y, expected = cache.step(u[..., t]), stepped.step(u[..., t])
            assert relative_error(y, expected) < 1e-6, n
    assert n > 5
