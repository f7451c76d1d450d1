"""Days of serving in minutes: requests of any length through few rows, memory flat."""

from __future__ import annotations

import gc
import random
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import futurefill_kernels as ff
from tests.oracles import relative_error

ROWS, CHUNK = 16, 32


class Serving:
    """Requests through the rows of a cache, each with its own inputs and right outputs.

    make_request(): inputs (T, ...), right outputs (T, ...) and how long the prompt is, T at most
    that and the room of a row. prefill(inputs (P, ...), row) and step(inputs (R, ...), rows) give
    outputs like theirs; reset(rows) frees rows.
    """

    def __init__(self, make_request, prefill, step, reset):
        self.make_request, self.prefill, self.step, self.reset = make_request, prefill, step, reset
        self.worst = 0.0

    def serve(self, count):
        """That many requests; every 16th call is a chunk of a prompt."""
        waiting, free = count, list(range(ROWS))
        tapes, at, active = {}, {}, []
        reading = None
        while waiting or tapes:
            if reading is None and free and waiting:
                reading, waiting = free.pop(), waiting - 1
                tapes[reading], at[reading] = self.make_request(), 0
            if reading is not None:
                inputs, right, prompt = tapes[reading]
                here, end = at[reading], min(at[reading] + CHUNK, prompt)
                self.check(self.prefill(inputs[here:end], reading), right[here:end])
                at[reading] = end
                if end == prompt:
                    active.append(reading)
                    reading = None
            done = [row for row in active if at[row] == len(tapes[row][0])]
            for row in done:
                del tapes[row]
                active.remove(row)
            if done:
                self.reset(done)
                free += done
            if active:
                now = torch.stack([tapes[row][0][at[row]] for row in active])
                right = torch.stack([tapes[row][1][at[row]] for row in active])
                self.check(self.step(now, active), right)
                for row in active:
                    at[row] += 1

    def check(self, got, right):
        self.worst = max(self.worst, relative_error(got, right))


def held():
    """Blocks that the interpreter has allocated, and the most memory that the process had, KiB."""
    gc.collect()
    return sys.getallocatedblocks(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def flat(serving, warm, count):
    """Serve, and check that the last requests took no memory that the first did not.

    Less than a block for each: whatever one of them left behind would be several.
    """
    serving.serve(warm)
    before, peak = held()
    serving.serve(count - warm)
    after, highest = held()
    assert after - before < count - warm
    assert highest - peak < 32 << 10


def stream_serving(most, channels=8, taps=700):
    """Requests of a FutureFillCache of two layers, gated, with their direct sums."""
    draw, g = random.Random(0), torch.Generator().manual_seed(0)
    h = [torch.randn(channels, n, generator=g) / n**0.5 for n in (taps, 20)]
    reversed_taps = [x.double().flip(1).numpy() for x in h]
    cache = ff.FutureFillCache(h, ROWS, most)

    def make_request():
        prompt, new = draw.randint(1, 80), draw.choice([1, 2, draw.randint(1, most)])
        x = torch.randn(prompt + new, 2, channels, generator=g)
        right = np.stack([_direct(x[:, i].T.double().numpy(), reversed_taps[i]) for i in range(2)])
        return x, torch.from_numpy(right).permute(2, 0, 1), prompt

    def prefill(x, row):
        parts = [x[:, i].T[None] for i in range(2)]
        y = [cache.prefill(u, i, rows=[row])[0].T for i, u in enumerate(parts)]
        return torch.stack(y, 1)

    def step(x, rows):
        return torch.stack([cache.step(x[:, i], i, rows=rows) for i in range(2)], 1)

    return Serving(make_request, prefill, step, cache.reset)


def _direct(x, reversed_taps):
    """Direct sums. x: (D, T) float64. reversed_taps: (D, L). Returns (D, T)."""
    padded = np.pad(x, ((0, 0), (reversed_taps.shape[1] - 1, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reversed_taps.shape[1], axis=1)
    return np.einsum("dtl,dl->dt", windows, reversed_taps)


def model_serving(most):
    """Requests of the shipped model: bytes of this file, and its logits in float64."""
    draw = random.Random(0)
    text = torch.tensor(list(Path(__file__).read_bytes()))
    model = ff.nn.load_model()
    with torch.no_grad():
        right = ff.nn.load_model().double()
        cache = ff.DecodingCache(model, ROWS, most)

    def make_request():
        prompt, new = draw.randint(1, 150), draw.randint(1, most)
        begin = draw.randrange(len(text) - prompt - new)
        ids = text[begin : begin + prompt + new]
        with torch.no_grad():
            return ids, right(ids[None])[0], prompt

    def call(ids, rows, lengths=None):
        with torch.no_grad(), cache.select(rows=rows, lengths=lengths):
            return model(ids, cache=cache)

    return Serving(
        make_request,
        lambda ids, row: call(ids[None], [row], [len(ids)])[0],
        lambda ids, rows: call(ids[:, None], rows)[:, 0],
        cache.reset,
    )


def test_a_hundred_requests_of_a_stream():
    serving = stream_serving(most=30)
    serving.serve(100)
    assert serving.worst < 2e-6


@pytest.mark.slow
def test_ten_thousand_requests_of_a_stream():
    serving = stream_serving(most=150)
    flat(serving, 500, 10_000)
    assert serving.worst < 2e-6


@pytest.mark.slow
def test_two_hundred_requests_of_the_shipped_model():
    serving = model_serving(most=100)
    flat(serving, 40, 200)
    assert serving.worst < 1e-4
