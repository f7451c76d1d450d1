"""Compiled code and plain torch move the same bytes."""

from __future__ import annotations

import copy
import pickle
import random

import pytest
import torch

from futurefill_kernels import native
from futurefill_kernels.state.slots import CLEAR, COPY, SWAP, SlotArray, Slots, move, move_by_torch

LAYERS, BATCH, TILES = 2, 4, 3


def arrays(dtype):
    """Two of slots alone, one of a transform's rows."""
    shapes = [(9, 5), (13, 5), (7, 2, 5)]
    return [
        torch.arange(LAYERS * BATCH * TILES * 70).to(dtype)[: LAYERS * BATCH * TILES * n]
        for n in (45, 65, 70)
    ], shapes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_move_the_same(dtype):
    draw = random.Random(0)
    for _ in range(100):
        flat, shapes = arrays(dtype)
        given = [
            x.view(LAYERS, BATCH, TILES, *shape) for x, shape in zip(flat, shapes, strict=True)
        ]
        moves = [
            (draw.choice([COPY, CLEAR]), draw.randrange(BATCH), draw.randrange(BATCH))
            for _ in range(draw.randint(0, 5))
        ]
        first, second, count = draw.randint(0, 5), draw.randint(0, 7), draw.randint(0, 4)
        rows = draw.randint(0, 3)
        results = []
        for how in (move, move_by_torch):
            tensors = [x.clone() for x in given]
            a, b, c = map(SlotArray, tensors)
            how(
                [Slots(a, first, count), Slots(b, second, 2 * rows)],
                [Slots(b, second, count), Slots(c, 1, rows)],
                moves,
            )
            results.append(tensors)
        assert all(map(torch.equal, *results))


@pytest.mark.parametrize("call", [move, move_by_torch])
@pytest.mark.parametrize("slots", [1, 5, 3000])
def test_rows_are_exchanged(call, slots):
    x = torch.randn(1, 3, 2, slots, 3)
    was, here = x.clone(), [Slots(SlotArray(x), 0, slots)]
    call(here, here, [(SWAP, 0, 2)])
    assert torch.equal(x, was[:, [2, 1, 0]])


@pytest.mark.parametrize("call", [move, move_by_torch])
@pytest.mark.parametrize("rows", [[0], [3, 1], range(BATCH)])
def test_what_is_cleared_is_empty(call, rows):
    x, y = torch.arange(1, 1 + LAYERS * BATCH * 3).view(LAYERS, BATCH, 1, 3).repeat(2, 1, 1, 1, 1)
    expected = x.clone(), y.clone()
    for row in rows:
        expected[0][:, row, :, 1] = -1
        expected[1][:, row, :, :2] = 0
    here = [Slots(SlotArray(x, -1), 1, 1), Slots(SlotArray(y), 0, 2)]
    call(here, here, [(CLEAR, row, row) for row in rows])
    assert all(map(torch.equal, (x, y), expected))


def test_bytes_of_a_row():
    x = torch.zeros(LAYERS, BATCH, TILES, 7, 2, 5)
    assert Slots(SlotArray(x), 2, 3).row_nbytes == LAYERS * TILES * 3 * 10 * 4


def test_without_a_library_torch_moves(monkeypatch):
    monkeypatch.setattr(native, "move_slots", lambda: None)
    x = torch.ones(1, 2, 1, 4, 1)
    move([Slots(SlotArray(x), 0, 4)], [Slots(SlotArray(x), 0, 4)], [(CLEAR, 0, 0)])
    assert x.flatten().tolist() == [0] * 4 + [1] * 4


def test_a_copy_has_its_own_bytes():
    tensor = torch.ones(1, 2, 1, 3, 4)
    here = SlotArray(tensor, -1)
    for other in (copy.copy(here), copy.deepcopy(here), pickle.loads(pickle.dumps(here))):
        assert other.address == other.tensor.data_ptr()
        assert (other.front, other.size, other.slot) == (here.front, here.size, here.slot)
        assert other.empty == here.empty
