"""Decoder: what is captured, when, for how long, and what cannot be."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.decoding.sampling import RandomSampler
from tests.decoding import capturing
from tests.decoding.models import make
from tests.decoding.requests import (
    PLAN,
    STEPS,
    plain,
    prompts_of,
)


def test_one_capture_serves_many_requests(graphs):
    model, (_, made) = make("language-model"), graphs
    decoder = ff.Decoder(model, 2, STEPS, plan=PLAN, impl="device-books", cuda_graph=True)
    requests = [
        ((2, 7), {}),
        ((1,), {}),
        ((4, 3), {"pad_id": 3}),
        ((4, 3), {"sampler": RandomSampler(0.8, top_k=9, seed=1)}),
        ((4, 3), {"sampler": RandomSampler(0.8, top_k=9, seed=[4, 4])}),
        ((4, 3), {"stop_ids": [1, 2, 3], "pad_id": 9}),
        ((4, 3), {"stop_ids": [5], "pad_id": 4}),
    ]
    captures = []
    for lengths, options in requests:
        prompts = prompts_of(*lengths, seed=len(captures))
        assert torch.equal(decoder(prompts, **options), plain(model, prompts, STEPS, **options))
        captures.append(made[0].captures)
    assert captures == [1, 1, 1, 2, 2, 3, 3]
    assert len(made) == 1


def test_graphs_of_samplers_that_are_used_no_more_go(graphs):
    model, (_, made) = make("language-model"), graphs
    decoder = ff.Decoder(model, 2, STEPS, plan=PLAN, impl="device-books", cuda_graph=True)
    prompts = prompts_of(4, 3)
    for round_ in range(2):
        for n in range(10):  # greedy is used all the time
            sampler = RandomSampler(0.5 + n / 10)
            decoder(prompts)
            got = decoder(prompts, sampler=sampler)
            assert torch.equal(got, plain(model, prompts, STEPS, sampler=sampler))
            assert len(decoder._loop._captured) <= 8
        assert made[0].captures == 1 + 10 * (round_ + 1)


def test_fills_are_launched_between_replays(graphs):
    implementation, made = graphs
    model = make("stu")
    decoder = ff.Decoder(model, 1, 20, plan=ff.Plan(20, (4, 8)), impl="device-books")
    at = []

    def callback(ids, t):
        at.append((made[0].replays, list(implementation.fills)))

    decoder(prompts_of(3), callback=callback)
    assert implementation.fills == [(4, 4), (8, 8), (12, 4), (16, 8)]
    # one token ahead: of token 5 the host knows after the replay of token 6, which was launched
    # behind the fill after the fourth step; token 1 was no replay
    assert at[5] == (5, [(4, 4)])
    assert made[0].replays == 18


def test_calls_of_a_token_do_not_grow_with_the_batch(graphs, monkeypatch):
    """What the host does between two callbacks, around a replay that does nothing."""
    monkeypatch.setattr(capturing.Tapes, "capture", lambda self, call: lambda: None)
    counts = set()
    for batch_size in (1, 3, 12):
        plan = ff.Plan(STEPS, (STEPS,))  # the fills of this implementation go row by row
        decoder = ff.Decoder(make("long-conv"), batch_size, STEPS, plan=plan, impl="device-books")
        prompts = prompts_of(*range(1, batch_size + 1))
        found, calls = [], []

        def callback(ids, t, calls=calls, found=found):
            found.append(len(calls))
            calls.clear()

        decoder(prompts)
        sys.setprofile(lambda frame, event, argument, calls=calls: calls.append(event))
        try:
            decoder(prompts, callback=callback)
        finally:
            sys.setprofile(None)
        counts.update(found[4:-1])
    assert len(counts) == 1
    assert counts.pop() < 200


def test_memory_is_free_as_soon_as_a_decoder_is_gone(graphs, monkeypatch):
    """Without a collection of cycles, which a GPU's memory does not ask for."""
    monkeypatch.setattr(capturing.Tapes, "capture", lambda self, call: lambda: None)
    decoder = ff.Decoder(make("stu"), 2, STEPS, plan=PLAN, impl="device-books", cuda_graph=True)
    decoder(prompts_of(3, 6))
    state = weakref.ref(decoder.cache.caches[0].state)
    gc.disable()
    try:
        del decoder
        assert state() is None
    finally:
        gc.enable()


def test_what_cannot_be_captured_is_refused(graphs):
    model, prompts = make("stu"), prompts_of(3)
    with pytest.raises(RuntimeError, match="impl='reference' reads positions on the host"):
        ff.Decoder(model, 1, 9, impl="reference", cuda_graph=True)
    with pytest.raises(RuntimeError, match="cannot be captured"):
        ff.decode(model, prompts, 9, impl="reference", cuda_graph=True)
    decoder = ff.Decoder(model, 1, 9, impl="device-books", cuda_graph=True)

    class Own(RandomSampler):
        pass

    for sampler, name in ((lambda logits: logits.argmax(-1), "<lambda>"), (Own(), "Own")):
        with pytest.raises(RuntimeError, match=rf"sampler={name} may read the host .* RandomSampl"):
            decoder(prompts, sampler=sampler)
    free = ff.Decoder(model, 1, 9, impl="device-books")
    assert torch.equal(
        free(prompts, sampler=Own(seed=3)), free(prompts, sampler=RandomSampler(seed=3))
    )


@pytest.mark.cpu_only("the message of a CPU")
def test_cuda_graphs_need_a_cuda_device():
    with pytest.raises(RuntimeError, match=r"need a CUDA device, the model is on cpu"):
        ff.Decoder(make("stu"), 1, 9, cuda_graph=True)


def test_a_side_stream_belongs_to_tokens_without_a_graph():
    for options in ({}, {"cuda_graph": True}):
        with pytest.raises(ValueError, match="fill_stream gains nothing in a token graph"):
            ff.Decoder(make("stu"), 1, 9, fill_stream=object(), **options)
    with pytest.raises(ValueError, match="fill_stream gains nothing in a token graph"):
        ff.decode(make("stu"), prompts_of(3), 9, fill_stream=object(), cuda_graph=True)
