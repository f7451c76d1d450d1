"""What rows are known to have in common, and that a reorder copies no more than the rest."""

from __future__ import annotations

import random

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.cache import used
from futurefill_kernels.cache.branches import Branches


def prefix(a, b):
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


@pytest.mark.parametrize("crops", [False, True])
def test_it_is_what_rows_have_in_common_since_they_were_one(crops):
    draw, batch, new = random.Random(crops), 4, iter(range(10**6))
    for _ in range(100):
        branches, rows = Branches(batch), [[] for _ in range(batch)]
        for _ in range(30):
            how = draw.choice(["step", "step", "reorder", "renew", "clone"] + crops * ["crop"])
            if how == "step":
                for row in draw.sample(range(batch), draw.randint(1, batch)):
                    rows[row].append(next(new))
            elif how == "reorder":
                order = [draw.randrange(batch) for _ in range(batch)]
                branches.reorder(order, [len(row) for row in rows])
                rows = [list(rows[old]) for old in order]
            elif how == "renew":
                row = draw.randrange(batch)
                branches.renew([row])
                rows[row] = []
            elif how == "clone":
                old, branches = branches, branches.clone()
                old.renew(range(batch))
            else:
                row = draw.randrange(batch)
                keep = draw.randint(0, len(rows[row]))
                branches.crop_rows({row: keep})
                del rows[row][keep:]
            for a in range(batch):
                for b in set(range(batch)) - {a}:
                    assert branches.common(a, b) == prefix(rows[a], rows[b])


def moved(monkeypatch):
    """Bytes of every call that moves rows."""
    found, move = [], used.move

    def counted(sources, targets, moves):
        found.append(sum(x.row_nbytes for x in targets) * len(moves))
        move(sources, targets, moves)

    monkeypatch.setattr(used, "move", counted)
    return found


def test_a_beam_search_copies_what_is_new(impl, monkeypatch):
    draw, total, plan = random.Random(0), 120, ff.Plan(120, (4, 8, 32))
    h, u = torch.randn(3, total), torch.randn(4, 3, total)
    cache = ff.FutureFillCache(h, 4, total, plan=plan, impl=impl)
    cache.run(u[:1, :, :60].expand(4, -1, -1))
    cache.reorder([0, 0, 0, 0])
    seen, found, everything = [u[0, :, :60]] * 4, moved(monkeypatch), 0
    for t in range(60, total - 1):
        y = cache.step(u[..., t])
        seen = [torch.cat([row, u[b, :, t : t + 1]], 1) for b, row in enumerate(seen)]
        right = ff.causal_conv(torch.stack(seen).double(), h.double())[..., -1]
        torch.testing.assert_close(y.double(), right, rtol=0, atol=1e-4)
        order = [draw.randrange(4) for _ in range(4)]
        cache.reorder(order)
        seen = [seen[old] for old in order]
        slots = used.used_slots(plan, t + 1)
        row = sum(x.row_nbytes for x in used.parts(cache.state, {t + 1}, slots, 0))
        everything += row * sum(b != old for b, old in enumerate(order))
    assert sum(found) < 0.4 * everything  # blocks of 4 fire often


def test_between_firings_it_copies_the_slots_of_new_inputs(monkeypatch):
    plan = ff.Plan(120, (4, 8, 32))
    cache = ff.FutureFillCache(torch.randn(3, 120), 3, 120, plan=plan, impl="reference")
    cache.run(torch.randn(3, 3, 57))
    found, slot = moved(monkeypatch), cache.state.ring[:, 0, :, 0].nbytes
    cache.reorder([0, 0, 2])
    assert sum(found) >= 64 * slot  # what is filled, and spectra
    for rows in ([1, 1, 2], [1, 0, 2]):  # at 58 and 59
        found.clear()
        cache.step(torch.randn(3, 3))
        cache.reorder(rows)
        assert found == [slot]
