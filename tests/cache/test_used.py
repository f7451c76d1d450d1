"""Copies and resets of rows touch what is used, and nothing else matters."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import futurefill_kernels as ff
from futurefill_kernels.cache.used import steps_to, used_slots
from futurefill_kernels.state.slots import COPY, SWAP
from tests.oracles import EXACT, PRECISE, relative_error


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n)))
def test_rows_become_what_others_were(rows):
    content = list(range(len(rows)))
    for how, source, target in steps_to(rows):
        aside = content[target]
        content[target] = content[source]
        if how == SWAP:
            content[source] = aside
    assert content == rows


def test_identity_and_what_stays_are_not_touched():
    assert steps_to([0, 1, 2]) == []
    assert steps_to([0, 0, 2, 2]) == [(COPY, 0, 1), (COPY, 2, 3)]
    assert steps_to([1, 0, 2]) == [(SWAP, 1, 0)]


@pytest.mark.parametrize(
    "plan",
    [
        ff.Plan(200, (4, 16, 64)), ff.Plan(200, (6, 18), 50), ff.Plan(200, (200,)),
        ff.Plan(200, (2, 8, 32), slack_from=8), ff.Plan(200, (3,), 1),
    ],
    ids=str,
)  # fmt: skip
def test_slots_that_are_not_used_are_zero(impl, plan):
    cache = ff.FutureFillCache(torch.ones(2, 200), 1, 200, plan=plan, impl=impl)
    for t in range(199):
        cache.step(torch.ones(1, 2))
        cache.launch_fills()
        used = used_slots(cache.plan, t + 1)
        assert t + 1 <= used <= 200
        assert not cache.state.ring[:, :, :, used:].any()


@pytest.mark.parametrize("rollback", [0, 9])
@pytest.mark.parametrize("sizes", [(4, 8, 24), (8, 32)])
def test_rows_that_are_moved_at_any_position(impl, sizes, rollback):
    """Beside prompts, rows of different length, resets: what is left of the old never shows."""
    draw, batch, total = random.Random(rollback), 4, 150
    h = torch.randn(3, 60, dtype=PRECISE) / 8
    u = torch.randn(batch, 3, 2 * total, dtype=PRECISE)
    cache = ff.FutureFillCache(
        h, batch, total, plan=ff.Plan(total, sizes), impl=impl, rollback=rollback
    )
    # of every row what it has seen
    seen = [torch.zeros(3, 0, dtype=PRECISE) for _ in range(batch)]
    for _ in range(60):
        how = draw.choice(["steps", "steps", "steps", "reorder", "reset", "clone", "prompt"])
        rows = sorted(draw.sample(range(batch), draw.randint(1, batch)))
        if how == "reorder":
            order = [draw.randrange(batch) for _ in range(batch)]
            cache.reorder(order)
            seen = [seen[old] for old in order]
        elif how == "clone":
            old, cache = cache, cache.clone()
            old.state.ring.fill_(torch.nan)
        elif how == "reset":
            cache.reset(rows[:1])
            seen[rows[0]] = seen[rows[0]][:, :0]
        elif how == "prompt":
            rows = [row for row in rows if not seen[row].shape[1]]
            if rows:
                cache.prefill(u[rows, :, :20], rows=rows)
                for row in rows:
                    seen[row] = u[row, :, :20]
        else:
            count = min(draw.randint(1, 20), *(cache.room(row) for row in rows))
            for _ in range(count):
                now = torch.stack([u[row, :, seen[row].shape[1]] for row in rows])
                y = cache.step(now, rows=rows)
                for r, row in enumerate(rows):
                    seen[row] = torch.cat([seen[row], now[r, :, None]], 1)
                    right = ff.causal_conv(seen[row][None].double(), h.double())[0, :, -1]
                    assert relative_error(y[r], right) < 30 * EXACT
            if rollback and count > rollback:  # more than an earlier one took back
                cache.crop([n - 5 * (row in rows) for row, n in enumerate(cache.taken)])
                seen = [x[:, : x.shape[1] - 5 * (row in rows)] for row, x in enumerate(seen)]
