"""The way back: positions, chunks and calls taken back bit for bit, and what a state then holds."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

import futurefill_kernels as ff
from bench.campaign.interrupts import Interrupt, interrupted
from tests.cache.layered import same_state

LAYERS, BATCH, CHANNELS, PROMPT, TOTAL = 2, 3, 6, 7, 60


def caches(impl, sizes, rollback):
    h = [torch.randn(3, 40) for _ in range(LAYERS)]
    return [
        ff.FutureFillCache(
            h, BATCH, TOTAL, channels=CHANNELS, plan=ff.Plan(TOTAL, sizes), impl=impl,
            skip=torch.ones(CHANNELS), rollback=rollback,
        )
        for _ in range(3)
    ]  # fmt: skip


def take(cache, u, *, chunk=False):
    """u: (layers, B, D, T), as one chunk or as steps."""
    if chunk:
        return torch.stack([cache.prefill(u[layer], layer) for layer in range(LAYERS)])
    steps = [
        torch.stack([cache.step(u[layer, ..., t], layer) for layer in range(LAYERS)])
        for t in range(u.shape[-1])
    ]
    return torch.stack(steps, -1)


@pytest.mark.parametrize("sizes", [(4, 8, 16), (2, 6, 12), (5,), (1, 2, 4, 8), (8, 24)])
@pytest.mark.parametrize("rollback", [0, 1, 8, 20, 60])
def test_every_way_back_leaves_the_bits_of_plain_steps(impl, sizes, rollback):
    torch.manual_seed(rollback)
    draw = random.Random(rollback)
    cache, plain, other = caches(impl, sizes, rollback)
    u = torch.randn(LAYERS, BATCH, CHANNELS, PROMPT + TOTAL)
    for c in (cache, plain):
        take(c, u[..., :PROMPT], chunk=True)
        take(c, u[..., PROMPT : PROMPT + 1])
    t = 1
    while t < TOTAL:
        do = draw.choice(["steps", "chunk", "crop", "abort", "abort a chunk", "load"])
        count = min(draw.randint(1, 12), TOTAL - t)
        if do in ("steps", "chunk"):
            here = u[..., PROMPT + t : PROMPT + t + count]
            expected = take(plain, here)
            assert torch.equal(take(cache, here, chunk=do == "chunk"), expected)
            t += count
        elif do == "crop":
            count = min(draw.randint(0, rollback), TOTAL - t)
            if count:
                take(cache, torch.randn(LAYERS, BATCH, CHANNELS, count), chunk=count > 5)
            cache.crop(t)
        elif do == "abort":
            cache.step(torch.randn(BATCH, CHANNELS), 0)
            cache.abort()
        elif do == "abort a chunk":
            for layer in range(draw.randint(1, LAYERS)):
                cache.prefill(torch.randn(BATCH, CHANNELS, count), layer)
            if cache.taken[0] == t:
                cache.abort()
            else:  # its last layer has run
                cache.take_back(dict.fromkeys(range(BATCH), t))
        else:
            other.load_state_dict(cache.state_dict())
            cache, other = other, cache
        same_state(cache, plain)


def test_filters_of_one_tap_are_taken_back(impl):
    """They have blocks and no firings."""
    u = torch.randn(1, 2, 30)
    cache = ff.FutureFillCache(
        torch.ones(2, 1), 1, 30, plan=ff.Plan(30, (4,)), impl=impl, rollback=9
    )
    y = [cache.step(u[..., t]) for t in range(20)]
    cache.crop(11)
    y[11:] = [cache.step(u[..., t]) for t in range(11, 30)]
    assert torch.equal(torch.stack(y, -1), u)


def test_rows_of_a_chunk_have_positions_and_lengths_of_their_own(impl):
    torch.manual_seed(0)
    cache, plain, _ = caches(impl, (4, 8, 16), 9)
    for c in (cache, plain):
        for layer in range(LAYERS):
            c.prefill(torch.ones(BATCH, CHANNELS, 3), layer)
        for row, count in ((0, 11), (1, 3), (2, 8)):
            for _ in range(count):
                for layer in range(LAYERS):
                    c.step(torch.ones(1, CHANNELS), layer, rows=[row])
    u, lengths = torch.randn(LAYERS, 2, CHANNELS, 9), [9, 6]
    got = [cache.prefill(u[i], i, rows=[2, 0], lengths=lengths) for i in range(LAYERS)]
    for r, (row, length) in enumerate(zip([2, 0], lengths, strict=True)):
        for t in range(length):
            for layer in range(LAYERS):
                y = plain.step(u[layer, r : r + 1, :, t], layer, rows=[row])
                torch.testing.assert_close(y[0], got[layer][r, :, t])  # rows of one position: bits
    same_state(cache, plain)
    cache.crop([12, 3, 8])
    assert cache.positions.tolist() == [12, 3, 8]


def test_a_layer_of_a_chunk_that_fails_anywhere_is_repeated(impl):
    torch.manual_seed(0)
    prepared, plain, _ = caches(impl, (2, 6, 12), 0)
    u = torch.randn(LAYERS, BATCH, CHANNELS, 20)
    for c in (prepared, plain):
        take(c, u[..., :9])
    take(plain, u[..., 9:])
    for n in itertools.count():
        cache = prepared.clone()
        cache.prefill(u[0, ..., 9:], 0)
        try:
            with interrupted(n):
                cache.prefill(u[1, ..., 9:], 1)
        except Interrupt:
            if cache.calls == prepared.calls:
                layers = [1]
                if cache._positions.layer != 1:  # it has run, and the call is not finished
                    cache.abort()
                    layers = [0, 1]
                for layer in layers:
                    cache.prefill(u[layer, ..., 9:], layer)
        else:
            break
        same_state(cache, plain)
    assert n > 5


def test_bytes_of_the_way_back():
    """Without one, a row holds its ring and what its plan keeps; with one, an image more."""
    h, length = torch.randn(32, 1024), 1024
    plan = ff.Plan.continuous(length, 16)
    state = {
        rollback: ff.FutureFillCache(h, 1, length, plan=plan, rollback=rollback).state
        for rollback in (0, 4, None)
    }
    assert state[0].prompt_fill is None
    assert state[0].images.numel() == 0
    assert state[4].images.shape[3] == 512  # of the largest block
    assert state[4].undo.shape[3] == 5
    assert state[None].prompt_fill.shape[3] == length
    per_position = (state[0].ring.nbytes + state[0].undo.nbytes) / 32 / length
    assert per_position <= 4.1


@pytest.mark.parametrize("again", [9, 12, 14])
def test_crops_one_after_the_other_reach_no_further_than_one(impl, again):
    """Of the slots behind it, those that the inputs taken back have used again are gone."""
    g = torch.Generator().manual_seed(0)
    h, u = torch.randn(3, 60, generator=g) / 8, torch.randn(1, 3, 40, generator=g)
    expected = ff.reference.causal_conv(u.double(), h.double())
    cache = ff.FutureFillCache(h, 1, 40, plan=ff.Plan(40, (4, 8, 16)), rollback=3, impl=impl)
    for t in range(18):
        cache.step(u[..., t])
    cache.crop(15)
    with pytest.raises(ValueError, match="expected length >= 15 for row 0"):
        cache.crop(again)
    for t in range(15, 17):
        cache.step(u[..., t])
    cache.crop(15)
    for t in range(int(cache.positions), 40):
        assert (cache.step(u[..., t]) - expected[..., t]).abs().max() < 1e-5


@pytest.mark.parametrize("taps", [1, 2])
def test_a_way_back_without_any_future_fill(impl, taps):
    """Filters that the short-range convolution covers: slots held inputs that were read as pending
    outputs after a crop.
    """
    h, u = torch.randn(3, taps), torch.randn(2, 3, 12)
    cache = ff.FutureFillCache(h, 2, 12, rollback=5, plan=ff.Plan(12, (taps,)), impl=impl)
    expected = ff.causal_conv(u, h)
    for t in range(7):
        cache.step(u[..., t])
    cache.crop([2, 4])
    for t in range(8):
        now = torch.stack([u[0, :, 2 + t], u[1, :, 4 + t]])
        right = torch.stack([expected[0, :, 2 + t], expected[1, :, 4 + t]])
        torch.testing.assert_close(cache.step(now), right)


def test_a_row_that_ends_on_a_block_before_others_is_filled_once(impl):
    """Inside a chunk of rows of different lengths its fill ran, and again before the next token."""
    h, u = torch.randn(3, 20) / 4, torch.randn(2, 3, 24)
    cache = ff.FutureFillCache(h, 2, 24, plan=ff.Plan(24, (2, 4, 8)), impl=impl)
    expected = ff.causal_conv(u, h)
    cache.step(u[..., 0])
    cache.prefill(u[..., 1:6], lengths=[5, 3])
    ends = [6, 4]
    for t in range(9):
        now = torch.stack([u[row, :, end + t] for row, end in enumerate(ends)])
        right = torch.stack([expected[row, :, end + t] for row, end in enumerate(ends)])
        torch.testing.assert_close(cache.step(now), right)


@pytest.mark.parametrize("sizes", [(4, 8, 16), (5,), (1, 2, 4, 8), (8, 24)])
@pytest.mark.parametrize("rollback", [1, 4, 9])
def test_exchanged_rows_can_be_taken_back(impl, sizes, rollback):
    """Larger blocks share a place for their before-images, which is exchanged once."""
    torch.manual_seed(0)
    cache, plain, _ = caches(impl, sizes, rollback)
    u, exchanged = torch.randn(LAYERS, BATCH, CHANNELS, TOTAL), [1, 0, 2]
    expected = take(plain, u)
    for t in range(1, TOTAL):
        take(cache, u[..., t - 1 : t])
        other, back = cache.clone(), min(rollback, t)
        other.reorder(exchanged)
        other.crop(t - back)
        found = take(other, u[:, exchanged, :, t - back : t + 2])
        torch.testing.assert_close(found, expected[:, exchanged, :, t - back : t + 2])
