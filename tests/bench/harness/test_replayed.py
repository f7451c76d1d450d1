"""A stream by replays is the stream by steps; plain calls stand in for the graph."""

from __future__ import annotations

import torch

import futurefill_kernels as ff
from bench.harness import shapes
from bench.harness.replayed import ReplayedStream


def test_a_replayed_stream_is_the_stream():
    h, plan = shapes.filters(5, 60), ff.Plan(60, (4, 8, 24))
    rows = shapes.make_rows(2, 5, 60, torch.float32)
    stream = ReplayedStream(ff.FutureFillCache(h, 2, 60, plan=plan), rows.clone())
    for _ in range(2):
        stream.rows[1:] = 0
        stream.start()
        stream()
        shapes.generate(ff.FutureFillCache(h, 2, 60, plan=plan), rows)
        assert torch.equal(stream.rows, rows)
