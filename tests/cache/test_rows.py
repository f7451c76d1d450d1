"""Rows that are forgotten, reordered, saved and restored."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import native
from futurefill_kernels.implementations.select import cannot_run
from tests.cache.full_memory import FullMemory
from tests.cache.streams import Stream
from tests.oracles import EXACT, EXACT_TOKEN, PRECISE, relative_error


@pytest.mark.parametrize("sizes", [(2, 6, 12), ((2, 4, 12), 4)])
def test_a_freed_row_starts_anew(impl, sizes):
    stream = Stream(3, batch=2, channels=4, groups=4, layers=1, taps=40, total=40)
    cache = stream.cache(40, sizes, impl)
    for t in range(13):
        cache.step(stream.u[0, :, :, t])
    cache.reset([1])
    assert cache.positions.tolist() == [13, 0]
    cache.prefill(stream.u[0, 1:, :, :5], rows=[1])
    for t in range(5, 30):
        y = cache.step(stream.u[0, 1:, :, t], rows=[1])
        expected = ff.causal_conv(stream.u[0, 1:, :, : t + 1], stream.h[0], stream.skip[0])
        assert relative_error(y, expected[..., -1]) < EXACT_TOKEN
    y = cache.step(stream.u[0, :1, :, 13], rows=[0])
    expected = ff.causal_conv(stream.u[0, :1, :, :14], stream.h[0], stream.skip[0])
    assert relative_error(y, expected[..., -1]) < EXACT_TOKEN


@pytest.mark.parametrize("sizes", [(2, 6, 12), ((2, 4, 12), 4)])
def test_reorder_and_clone(impl, sizes):
    stream = Stream(4, batch=3, channels=4, groups=2, layers=1, taps=64, total=70)
    cache = stream.cache(60, sizes, impl)
    cache.prefill(stream.u[0, :, :, :10])
    for t in range(10, 31):
        cache.step(stream.u[0, :, :, t])
    branch = cache.clone()
    branch.reorder([2, 2, 0])
    order = stream.u[0][[2, 2, 0]]
    for t in range(31, 70):
        y, z = cache.step(stream.u[0, :, :, t]), branch.step(order[..., t])
        torch.testing.assert_close(z, y[[2, 2, 0]], rtol=0, atol=0)


def test_state_moves_between_implementations():
    stream = Stream(6, batch=2, channels=8, groups=2, layers=1, taps=64, total=64)
    names = [
        name
        for name, reasons in cannot_run(torch.get_default_device(), PRECISE).items()
        if not reasons
    ]
    caches = {name: stream.cache(64, (4, 16), name) for name in names}
    cache = caches["reference"]
    for t in range(64):
        if t % 10 == 9:
            other = caches[names[t // 10 % len(names)]]
            other.load_state_dict(cache.state_dict())
            cache = other
        stream.step(cache, t)
    assert stream.error() < EXACT


@pytest.mark.skipif(native.move_slots() is None, reason="without a compiled library torch moves")
def test_a_reorder_of_rows_apart_needs_no_memory():
    """What runs out half way would leave rows that are no stream's."""
    torch.manual_seed(2)
    h, u = torch.randn(4, 40) / 6, torch.randn(30, 3, 4)
    cache, expected = (ff.FutureFillCache(h, 3, 40, rollback=5) for _ in "ab")
    for c in (cache, expected):
        for t in range(20):
            c.step(u[t, :2] if t % 3 else u[t], rows=[2, 1] if t % 3 else None)
    expected.reorder([2, 0, 1])
    with FullMemory():
        cache.reorder([2, 0, 1])
    for t in range(20, 24):
        assert torch.equal(cache.step(u[t]), expected.step(u[t]))
