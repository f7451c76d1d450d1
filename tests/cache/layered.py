"""Streams of several layers whose calls fail, and what they are compared with."""

from __future__ import annotations

import torch

from futurefill_kernels.state.open_block import whole_slots
from tests.cache.streams import Stream

LAYERS, TOTAL, PROMPT = 3, 48, 7


def same_state(cache, other):
    cache.launch_fills(), other.launch_fills()
    a, b = cache.state, other.state
    assert cache.positions.tolist() == other.positions.tolist() == a.positions.tolist()
    places = a.positions.tolist()
    assert torch.equal(whole_slots(a, places), whole_slots(b, places))
    assert torch.equal(a.kept, b.kept)


def streams(impl, sizes, steps=11):
    """A stream and its cache after a prompt and some steps, and a second cache like it."""
    stream = Stream(
        5, batch=2, channels=6, groups=3, layers=LAYERS, taps=40, total=TOTAL, dtype=torch.float32
    )
    caches = [stream.cache(TOTAL - PROMPT, sizes, impl) for _ in range(2)]
    for cache in caches:
        stream.prefill(cache, 0, PROMPT)
        for t in range(PROMPT, PROMPT + steps):
            stream.step(cache, t)
    return stream, *caches
