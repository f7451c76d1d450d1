"""The books of a stream: every row at its own position, and no more of them than there are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from futurefill_kernels import FutureFillCache, Plan
from futurefill_kernels.cache.positions import Positions
from tests.cache.snapshot import snapshot
from tests.cache.streams import Stream
from tests.oracles import EXACT, relative_error


@pytest.mark.parametrize("sizes", [(2, 6, 12), ((2, 4, 12), 4)])
def test_rows_have_their_own_positions(impl, sizes):
    length = 60
    stream = Stream(2, batch=4, channels=9, groups=3, layers=2, taps=90, total=20 + length)
    cache = stream.cache(length, sizes, impl)
    lengths = [20, 3, 11, 1]
    for i in range(2):
        at = (i, ..., slice(0, 20))
        y = cache.prefill(
            stream.u[at], i, pre=stream.pre[at], post=stream.post[at], lengths=lengths
        )
        for b, n in enumerate(lengths):
            stream.got[i, b, :, :n] = y[b, :, :n]
    taken = list(lengths)
    generator = torch.Generator().manual_seed(0)
    while True:
        active = [b for b in range(4) if taken[b] < lengths[b] + length]
        if not active:
            break
        chosen = [b for b in active if torch.rand((), generator=generator) < 0.6]
        rows = [*chosen, -1]
        for i in range(2):
            u, pre, post = (
                torch.stack([x[i, b, :, taken[b]] if b >= 0 else x[i, 0, :, 0] for b in rows])
                for x in (stream.u, stream.pre, stream.post)
            )
            y = cache.step(u, i, pre=pre, post=post, rows=rows)
            assert (y[-1] == 0).all()
            for r, b in enumerate(chosen):
                stream.got[i, b, :, taken[b]] = y[r]
        for b in chosen:
            taken[b] += 1
    for b, n in enumerate(lengths):
        whole = slice(0, n + length)
        assert relative_error(stream.got[:, b, :, whole], stream.expected[:, b, :, whole]) < EXACT


def test_no_step_beyond_max_new_tokens(impl):
    cache = FutureFillCache(torch.ones(2, 3), 1, 2, impl=impl)
    cache.step(torch.ones(1, 2))
    cache.step(torch.ones(1, 2))
    before = snapshot(cache)
    with pytest.raises(ValueError, match="all max_new_tokens = 2 are taken"):
        cache.step(torch.ones(1, 2))
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(cache), strict=True))


@given(st.data())
def test_the_books_are_a_list_of_positions(data):
    """Whatever is asked and in what order: grants change nothing that can be read."""
    length, batch = 9, 3
    books, expected = Positions(batch, Plan(length, (1,))), [0] * batch
    rows = st.lists(st.integers(-1, batch - 1), unique=True)
    order = st.lists(st.integers(0, batch - 1), min_size=batch, max_size=batch)
    for action in data.draw(st.lists(st.sampled_from("aaaarnoucf"), max_size=30)):
        if action == "a" and max(expected) < length:  # a step of all rows
            if books.plain <= 0:
                books.grant()
            books.plain -= 1
            expected = [p + 1 for p in expected]
        elif action == "r":
            assert list(books.rows) == expected
        elif action == "n":  # a step of some rows; -1 is padding
            some = [row for row in data.draw(rows) if row < 0 or expected[row] < length]
            books.advance(some)
            expected = [p + (row in some) for row, p in enumerate(expected)]
        elif action == "o":
            chosen = data.draw(order)
            books.reorder(chosen)
            expected = [expected[row] for row in chosen]
        elif action == "u":
            books.stand({1: 4}, {1: 4})
            expected[1] = 4
        elif action == "c":
            books, before = books.clone(), books
            before.advance(range(batch))
        assert books.full == (max(expected) == length)
    assert [books.room(row) for row in range(batch)] == [length - p for p in expected]


def test_a_grant_lasts_until_the_first_row_is_full():
    books = Positions(2, Plan(5, (1,)))
    books.advance([1])
    books.grant()
    assert books.plain == 4
    books.plain -= 4
    assert books.full
    assert list(books.rows) == [4, 5]
    assert books.plain == 0


def test_reading_positions_ends_no_grant():
    books = Positions(2, Plan(10, (1,)))
    books.advance([1])
    books.grant()
    books.plain -= 3
    assert (books.rows, books.room(1), books.common, books.plain) == ([3, 4], 6, None, 6)
    books.stand({0: 4}, {0: 4})
    books.grant()
    books.plain -= 1
    assert (books.common, books.rows, books.full) == (5, [5, 5], False)
    books.settle()
    assert (books.common, books.rows, books.plain) == (None, [5, 5], 0)
