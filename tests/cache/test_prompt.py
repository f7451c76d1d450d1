"""Prompts in several calls, whose rows continue from different ends, and chunks in the stream."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.cache.call import Call
from tests.oracles import EXACT_TOKEN, PRECISE, relative_error


def test_part_of_a_call():
    u = torch.randn(4, 3, 5)
    call = Call(2, [7, 1, 5, 0], [5, 4, 3, 2], u, None, 2 * u)
    for members in (slice(1, 3), [1, 2]):
        part = call.part(members)
        assert (part.layer, part.rows, part.lengths) == (2, [1, 5], [4, 3])
        assert torch.equal(part.u, u[1:3])
        assert part.pre is None
        assert torch.equal(part.post, 2 * u[1:3])
    assert call.part(slice(1, 3)).u.data_ptr() == u[1].data_ptr()
    assert call.part([3, 0]).rows == [0, 7]


@pytest.mark.parametrize("sizes", [(2, 6, 12), (4,)])
def test_rows_in_their_prompt_and_in_the_stream_in_one_call(impl, sizes):
    """Three rows: one deep in its prompt, one at its start, one that has made steps."""
    g = torch.Generator().manual_seed(0)
    h = torch.randn(3, 40, generator=g, dtype=PRECISE) / 6
    u = torch.randn(3, 3, 40, generator=g, dtype=PRECISE)
    expected = ff.causal_conv(u, h)
    cache = ff.FutureFillCache(h, 3, 24, plan=ff.Plan(24, sizes), impl=impl)
    taken = [0, 0, 0]

    def prefill(rows, lengths):
        width = max(lengths)
        chunk = u.new_full((len(rows), 3, width), 9.0)
        for r, (row, n) in enumerate(zip(rows, lengths, strict=True)):
            chunk[r, :, :n] = u[row, :, taken[row] : taken[row] + n]
        y = cache.prefill(chunk, rows=rows, lengths=lengths)
        for r, (row, n) in enumerate(zip(rows, lengths, strict=True)):
            found, right = y[r, :, :n], expected[row, :, taken[row] : taken[row] + n]
            assert relative_error(found, right) < EXACT_TOKEN
            taken[row] += n

    prefill([0, 2], [7, 2])
    for _ in range(3):
        y = cache.step(u[2:, :, taken[2]], rows=[2])
        assert relative_error(y, expected[2:, :, taken[2]]) < EXACT_TOKEN
        taken[2] += 1
    assert [cache.in_prompt(row) for row in range(3)] == [True, True, False]
    prefill([2, 0, 1], [4, 6, 3])
    assert cache.positions.tolist() == [0, 0, 7]
    prefill([0, 1, 2], [1, 5, 2])
    for _ in range(10):
        y = cache.step(torch.stack([u[row, :, taken[row]] for row in range(3)]))
        right = torch.stack([expected[row, :, taken[row]] for row in range(3)])
        assert relative_error(y, right) < EXACT_TOKEN
        taken = [n + 1 for n in taken]
    assert not any(cache.in_prompt(row) for row in range(3))


def test_padding_that_reaches_behind_the_end_of_the_stream(impl):
    """A row with room for one position beside one that takes six."""
    g = torch.Generator().manual_seed(0)
    h = torch.randn(3, 40, generator=g, dtype=PRECISE) / 6
    u = torch.randn(2, 3, 18, generator=g, dtype=PRECISE)
    expected = ff.causal_conv(u, h)
    cache = ff.FutureFillCache(h, 2, 10, plan=ff.Plan(10, (2, 4)), impl=impl)
    for t in range(9):
        cache.step(u[:1, :, t], rows=[0])
    for t in range(4):
        cache.step(u[1:, :, t], rows=[1])
    chunk = torch.full((2, 3, 6), torch.nan, dtype=PRECISE)
    chunk[0, :, :1], chunk[1] = u[0, :, 9:10], u[1, :, 4:10]
    y = cache.prefill(chunk, lengths=[1, 6])
    assert relative_error(y[0, :, :1], expected[0, :, 9:10]) < EXACT_TOKEN
    assert relative_error(y[1], expected[1, :, 4:10]) < EXACT_TOKEN
    assert cache.positions.tolist() == [10, 10]
