"""What rows are known to have in common, and that a reorder copies no more than the rest."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import native
from futurefill_kernels.cache import used
from futurefill_kernels.cache.branches import Branches
from futurefill_kernels.cache.compiled_branches import branches_of
from tests.cache.full_memory import FullMemory

COMPILED = pytest.mark.skipif(
    native.plain_step_unavailable_reason() is not None,
    reason=f"no compiled reorder: {native.plain_step_unavailable_reason()}",
)


def prefix(a, b):
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


@pytest.mark.parametrize("make", [Branches, branches_of])
@pytest.mark.parametrize("crops", [False, True])
def test_it_is_what_rows_have_in_common_since_they_were_one(crops, make):
    draw, batch, new = random.Random(crops), 4, iter(range(10**6))
    for _ in range(100):
        branches, rows = make(batch), [[] for _ in range(batch)]
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


SIZES = [  # layers, batch, channels, dtype, plan
    (1, 4, 3, torch.float32, ff.Plan(120, (4, 8, 32))),
    (2, 2, 40, torch.float64, ff.Plan(120, (8, 120))),
    (1, 5, 17, torch.bfloat16, ff.Plan(120, (16, 64))),
    (3, 3, 1, torch.float32, ff.Plan(120, (1, 4))),
]


def recorded(cache):
    """Whether compiled code did each reorder of a cache from now on."""
    reorder, done = cache._plain.reorder, []
    cache._plain = cache._plain._replace(
        reorder=lambda *given: done.append(reorder(*given)) or done[-1]
    )
    return done


def in_python(cache):
    """Reorders of the cache leave compiled code out."""
    cache._plain = cache._plain._replace(reorder=lambda *_: False)


@COMPILED
@pytest.mark.parametrize("prompt", [0, 9])
@pytest.mark.parametrize(("layers", "batch", "channels", "dtype", "plan"), SIZES)
def test_compiled_code_leaves_the_same_bits(layers, batch, channels, dtype, plan, prompt):
    draw, total = random.Random(batch), 120
    filters = [torch.randn(channels, total, dtype=dtype) / 9 for _ in range(layers)]
    cache, other = (ff.FutureFillCache(filters, batch, total, plan=plan, impl="cpu") for _ in "ab")
    in_python(other)
    done = recorded(cache)
    u = torch.randn(layers, batch, channels, prompt + total, dtype=dtype)
    for c in (cache, other):
        for layer in range(layers if prompt else 0):
            c.prefill(u[layer, : batch // 2, :, :prompt], layer, rows=range(batch // 2))
    for t in range(prompt, prompt + total - 1):
        for layer in range(layers):
            x = u[layer, :, :, t].contiguous()
            assert torch.equal(cache.step(x, layer), other.step(x, layer))
        order = [draw.randrange(batch) for _ in range(batch)]
        if t % 3 == 1:
            draw.shuffle(order := list(range(batch)))
        if t < 9 or t % 4:
            cache.reorder(order)
            other.reorder(order)
            for a, b in zip(cache.state.arrays, other.state.arrays, strict=True):
                assert torch.equal(a.tensor, b.tensor)
            assert cache._prefill.forgotten == other._prefill.forgotten
        if t == 60:
            cache.reset([0])
            other.reset([0])
    assert done[:10] == [True] * 10
    assert False in done  # rows are apart


@COMPILED
@pytest.mark.parametrize("options", [
    {}, {"rollback": 4}, {"rollback": None}, {"state_dtype": torch.bfloat16},
    {"plan": ff.Plan(40, (8, 16), slack_from=16)},
])  # fmt: skip
def test_what_compiled_code_leaves_to_python(options):
    """More than slots and spectra, rows that are apart or wait for a prompt, a token under way."""
    plain, u = not options, torch.randn(3, 2)
    options = {"plan": ff.Plan(40, (8, 16)), **options}
    cache = ff.FutureFillCache([torch.randn(2, 40)] * 2, 3, 40, impl="cpu", **options)
    done = recorded(cache)
    cache.reorder([0, 0, 1])
    assert not done  # they wait for a prompt
    for rows, expected in ((None, plain), (None, plain), ([1], False)):
        for layer in range(2):
            cache.step(u if rows is None else u[:1], layer, rows=rows)
        for order in ([1, 1, 2], [0, 1, 2]):
            cache.reorder(order)
            assert done.pop() == expected
    cache.step(u)
    with pytest.raises(ValueError, match="finished token"):
        cache.reorder([1, 1, 2])
    assert not done


@COMPILED
@pytest.mark.parametrize("rows", [[0, 0], [0, 3, 0], [0, -1, 0], [0, 0, True], [2**70] * 3, None])
def test_rows_that_compiled_code_refuses(rows):
    cache = ff.FutureFillCache(torch.randn(2, 40), 3, 40, impl="cpu")
    cache.step(torch.randn(3, 2))
    done, before = recorded(cache), cache.state_dict()
    with pytest.raises((TypeError, ValueError), match="expected"):
        cache.reorder(rows)
    assert not any(done)
    assert all(torch.equal(x, before[name]) for name, x in cache.state_dict().items())


@COMPILED
def test_a_beam_search_needs_no_memory():
    cache = ff.FutureFillCache(torch.randn(2, 40), 2, 40, plan=ff.Plan(40, (4, 8)), impl="cpu")
    done, forms = recorded(cache), (list, tuple, np.array)
    for t in range(39):
        cache.step(torch.randn(2, 2))
        with FullMemory():
            cache.reorder(forms[t % 3]([1, 0] if t % 2 else [1, 1]))
    assert done == [True] * 39
    with pytest.raises(ValueError, match="right behind the newest call"):
        cache.take_back({0: 38, 1: 38})
