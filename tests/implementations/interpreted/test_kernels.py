"""Triton steps and arguments in Triton's interpreter against float64 and against impl="reference".

TRITON_INTERPRET must be set before Triton is imported, so the files of this folder are test runs of
their own, which tests/implementations/test_triton.py starts.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
from functools import partial

import pytest
import torch

from futurefill_kernels import Plan
from futurefill_kernels.planning.capabilities import CAPABILITIES
from futurefill_kernels.state.tensors import LEVEL_COLUMNS, StreamState
from tests.implementations.interpreted.states import make_state
from tests.oracles import TOLERANCE, history, poison_history, relative_error, short_range

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("runs with TRITON_INTERPRET=1, see test_triton.py", allow_module_level=True)


OPS = torch.ops.futurefill_kernels
IO_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def run_history(state: StreamState, rows: torch.Tensor | None) -> None:
    OPS.triton_history(
        *(state.ring, state.open_block, state.taps, state.positions, rows),
        *(state.token_at, state.undo, state.history, state.channels_per_filter),
    )


HISTORY_SHAPES = list(itertools.product((1, 7, 64, 100, 1000, 1024), (1, 3, 8), (1, 2, 5)))
#: numbers of small cases that have every kind of block, one row and several per program, groups,
#: and listed rows
FAST_HISTORIES = {1, 5, 12, 21, 26, 35}


@pytest.mark.parametrize(
    ("case", "channels", "batch", "layers"),
    [
        (case, *shape)
        if case in FAST_HISTORIES
        else pytest.param(case, *shape, marks=pytest.mark.slow)
        for case, shape in enumerate(HISTORY_SHAPES)
    ],
)
def test_history(case, channels, batch, layers, monkeypatch):
    """Rows at the edges of their blocks, at the end of the stream, listed, padding; both kinds of
    programs.
    """
    torch.manual_seed(case)
    draw = random.Random(case)
    if case % 2:  # as if there were enough programs
        monkeypatch.setattr(
            "futurefill_kernels.implementations.triton_kernels.config.HISTORY_WARPS", 0
        )
    block = [1, 2, 3, 16, 24, 96][case % 6]
    groups = draw.choice([g for g in (1, 5, 7, 20, channels) if channels % g == 0])
    plan = Plan(2 * block + 1, (block,), draw.choice([None, block // 2 + 1]))
    state, filters = make_state(plan, channels, batch, groups, layers)
    edges = [0, block - 1, block, block + block // 2, 2 * block, plan.length]
    state.positions.copy_(torch.tensor([draw.choice(edges) for _ in range(batch)]))
    state.positions[0] = block + block // 2
    rows = [*draw.sample(range(1, batch), k=batch // 2), -1, 0] if draw.random() < 0.5 else None
    poison_history(state)
    ring, positions = state.ring.clone(), state.positions.clone()
    run_history(state, None if rows is None else torch.tensor(rows))
    assert torch.equal(state.ring.nan_to_num(9.0), ring.nan_to_num(9.0))
    assert torch.equal(state.positions, positions)
    got, expected = [], []
    for layer, b in itertools.product(range(layers), range(batch)):
        p = int(positions[b])
        named = rows is None or b in rows
        assert state.token_at[layer, b] == (p if named else -7)
        if not named or p >= plan.length:
            assert torch.isnan(state.undo[layer, b]).all()
            assert torch.isnan(state.history[layer, b]).all()
            continue
        assert torch.equal(state.undo[layer, b, 0, 0], ring[layer, b, 0, p])
        got.append(state.history[layer, b, :channels])
        expected.append(history(state, filters[layer], layer, b))
    assert relative_error(torch.cat(got), torch.cat(expected)) < 2e-7


APPLY_SHAPES = list(itertools.product((1, 7, 64, 100, 300), (1, 3), IO_DTYPES))


@pytest.mark.parametrize(
    ("case", "channels", "batch", "dtype"),
    [
        (case, *shape) if case % 4 == 1 else pytest.param(case, *shape, marks=pytest.mark.slow)
        for case, shape in enumerate(APPLY_SHAPES)
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_apply_step(case, channels, batch, dtype):
    """One layer from what its history left: gates and skip, rows of wider tensors, rows without
    room.
    """
    torch.manual_seed(case)
    draw = random.Random(case)
    groups = draw.choice([g for g in (1, 5, 7, channels) if channels % g == 0])
    plan, layers, layer = Plan(7, (3,), 5), 2, case % 2
    state, filters = make_state(plan, channels, batch, groups, layers, skip=case % 3 > 0)
    state.history.normal_()
    state.token_at.copy_(torch.randint(7, (layers, batch)))
    state.positions.copy_(state.token_at[layer])
    rows = [*draw.sample(range(batch), k=batch - 1), -1] if case % 2 else list(range(batch))
    if batch > 2:
        state.token_at[layer, rows[0]] = 7
    wide = torch.randn(batch, 3 * channels).to(dtype)
    u, pre, post = wide.chunk(3, 1)
    pre, post = (pre, post) if case % 4 < 2 else (None, None)
    y = torch.full((batch, channels), torch.nan, dtype=dtype)
    ring, positions = state.ring.clone(), state.positions.clone()
    weight = filters[layer][:, 0].double().repeat_interleave(channels // groups)
    if state.skip is not None:
        weight = weight + state.skip[layer, :channels].double()
    x = u.double() if pre is None else (u.double() * pre.double()).float().double()
    expected = torch.zeros(batch, channels, dtype=torch.float64)
    for r, b in enumerate(rows):
        if b < 0:
            continue
        p = int(state.token_at[layer, b])
        if p >= plan.length:
            expected[r] = torch.nan
            continue
        expected[r] = state.history[layer, b, :channels].double() + weight * x[r]
        if post is not None:
            expected[r] *= post[r].double()
        ring[layer, b, 0, p, :channels] = x[r].float()
        positions[b] = p + 1 if layer else positions[b]
    OPS.triton_apply_step(
        *(u, pre, post, y, state.ring, state.open_block, state.taps, state.skip, state.history),
        *(state.token_at, state.positions),
        *(torch.tensor(rows) if case % 2 else None, layer, layer == 1, channels // groups),
    )
    assert torch.equal(torch.isnan(y), torch.isnan(expected))
    limit = max(2e-7, TOLERANCE[dtype] * (dtype != torch.float32))
    assert relative_error(y.nan_to_num(), expected.nan_to_num()) < limit
    assert torch.equal(state.ring, ring)
    assert torch.equal(state.positions, positions)


@pytest.mark.parametrize("warps", [0, 4])
def test_a_token_of_a_state_of_16_bits(warps, monkeypatch):
    """It reads and writes the open block alone; inputs are rounded behind their own outputs. Rows
    at the edges of their blocks, without room and padding; both kinds of programs.
    """
    torch.manual_seed(0)
    monkeypatch.setattr(
        "futurefill_kernels.implementations.triton_kernels.config.HISTORY_WARPS", warps
    )
    plan, channels, layers, layer = Plan(11, (3, 6)), 6, 2, 1
    state, filters = make_state(plan, channels, 5, 3, layers, ring_dtype=torch.float16)
    state.positions.copy_(torch.tensor([0, 4, 8, 11, 5]))
    state.ring.fill_(torch.nan)
    for row, p in enumerate(state.positions.tolist()):
        state.open_block[:, row, :, p % 3 + 1 :] = torch.nan
    opened, at = state.open_block.clone(), state.positions.clone()
    rows = torch.tensor([1, -1, 3, 2, 0])
    run_history(state, rows)
    u, y = torch.randn(5, channels), torch.full((5, channels), torch.nan)
    OPS.triton_apply_step(
        *(u, None, None, y, state.ring, state.open_block, state.taps, state.skip, state.history),
        *(state.token_at, state.positions, rows, layer, True, 2),
    )
    expected = torch.zeros(5, channels, dtype=torch.float64)
    for r, b in enumerate(rows.tolist()):
        p = int(at[b]) if b >= 0 else 0
        if p >= plan.length:
            expected[r] = torch.nan
        elif b >= 0:
            slots = opened[layer, b, 0, : p % 3 + 1, :channels]
            assert torch.equal(state.undo[:, b, 0, 0], opened[:, b, 0, p % 3])
            expected[r] = short_range(
                slots[-1], torch.cat([slots[:-1], u[r, None]]), filters[layer]
            )
            expected[r] += state.skip[layer, :channels].double() * u[r]
            opened[layer, b, 0, p % 3, :channels] = u[r].half().float()
            at[b] += 1
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-6, equal_nan=True)
    torch.testing.assert_close(state.open_block, opened, rtol=0, atol=0, equal_nan=True)
    assert state.ring.isnan().all()
    assert torch.equal(state.positions, at)


def test_opcheck_and_compile():
    plan = Plan(40, (4, 8))
    state, _ = make_state(plan, 6, 2, 3)
    state.kept.zero_()

    def step(u, y):
        run_history(state, None)
        OPS.triton_apply_step(*(u * 2, None, u, y), *token)
        return y + 1

    token = (
        *(state.ring, state.open_block, state.taps, state.skip, state.history, state.token_at),
        *(state.positions, None, 0, True, 2),
    )
    stream = (state.ring, state.open_block, state.kept, state.spectra, state.positions)

    def fill(scale):
        OPS.triton_future_fill(*stream, None, state.levels, 40, 0, 0, 6, 2)
        return state.ring * scale

    u, y = torch.randn(2, 6), torch.zeros(2, 6)
    for function, arguments in ((step, (u, y)), (fill, (torch.ones(1),))):
        state.positions.fill_(4)
        ring, positions = state.ring.clone(), state.positions.clone()
        expected, after = function(*arguments), (state.ring.clone(), state.positions.clone())
        state.ring.copy_(ring)
        state.positions.copy_(positions)
        traced = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert torch.equal(traced(*arguments), expected)
        assert torch.equal(state.ring, after[0])
        assert torch.equal(state.positions, after[1])
    state.positions.fill_(4)
    torch.library.opcheck(
        OPS.triton_history.default,
        (
            state.ring,
            state.open_block,
            state.taps,
            state.positions,
            None,
            state.token_at,
            state.undo,
            state.history,
            2,
        ),
    )
    torch.library.opcheck(OPS.triton_apply_step.default, (u, None, u, y, *token))
    state.positions.fill_(4)
    torch.library.opcheck(
        OPS.triton_future_fill.default, (*stream, None, state.levels, 40, 0, 0, 6, 2)
    )


def test_wrong_arguments_change_nothing():
    state, _ = make_state(Plan(8, (2, 4)), 6, 2, 3)
    shared = {
        "ring": state.ring, "open_block": state.open_block, "taps": state.taps,
        "positions": state.positions, "rows": None, "token_at": state.token_at,
        "history": state.history, "channels_per_filter": 2,
    }  # fmt: skip
    tokens = {
        "u": torch.ones(2, 6), "pre": None, "post": None, "y": torch.zeros(2, 6),
        "skip": state.skip, "layer": 0, "advance": True,
    }  # fmt: skip
    before = state.ring.clone()
    in_both = [
        (
            {"ring": state.ring.double()},
            "expected ring of dtype float32, bfloat16, float16, got torch.float64",
        ),
        ({"ring": state.ring[..., :6]}, "expected ring contiguous"),
        ({"ring": state.ring.half()}, "expected open_block of 1 slot or more with a ring of"),
        ({"taps": state.taps[:0]}, r"expected taps \(1, 1, T_0, F\), got"),
        ({"rows": torch.tensor([0, 1], dtype=torch.int32)}, "expected rows of dtype int64"),
        ({"positions": torch.zeros(3).long()}, "expected positions of 2 rows, got"),
        ({"token_at": torch.zeros(1, 3).long()}, r"expected token_at \(1, 2\), got \(1, 3\)"),
        ({"token_at": torch.zeros(1, 2)}, "expected token_at of dtype int64, got torch.float32"),
        ({"history": torch.zeros(1, 2, 64)}, r"expected history \(1, 2, 32\), got \(1, 2, 64\)"),
        ({"channels_per_filter": 0}, "expected taps with a filter for every 0 of 32 channels"),
    ]
    for change, message in [
        *in_both,
        ({"undo": torch.zeros(1, 2, 32)}, r"expected undo \(1, 2, 1, 1 or more, 32\), got"),
    ]:
        with pytest.raises(ValueError, match=message):
            OPS.triton_history(**(shared | {"undo": state.undo} | change))
    for change, message in [
        *in_both,
        ({"u": torch.ones(3, 6)}, "expected u with 2 rows, got 3"),
        ({"u": torch.ones(2, 40)}, r"expected u \(R, D <= 32\), got"),
        ({"u": torch.ones(2, 6).double()}, "expected u of 16 or 32 bits, got torch.float64"),
        ({"y": torch.zeros(2, 6).half()}, "expected y of dtype torch.float32, got torch.float16"),
        ({"y": torch.zeros(6, 2).T}, "expected y contiguous in its last dimension, got strides"),
        ({"pre": torch.ones(2, 5)}, r"expected pre \(R, D\) = \(2, 6\), got \(2, 5\)"),
        ({"skip": torch.ones(2, 32)}, r"expected skip \(1, 32\), got \(2, 32\)"),
        ({"layer": 1}, r"expected layer in 0 \.\. 0, got 1"),
        ({"channels_per_filter": 4}, "expected channels_per_filter to divide 6, got 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            OPS.triton_apply_step(**(shared | tokens | change))
    assert state.token_at.tolist() == [[-1, -1]]
    stream = (state.ring, state.open_block, state.kept, state.spectra, state.positions, None)
    for ring, opened, message in [
        (state.ring, torch.zeros(1, 2, 1, 2, 32), r"open_block \(1, 2, 1, 0, 32\), got"),
        (state.ring.half(), torch.zeros(1, 3, 1, 2, 32), r"open_block \(1, 2, 1, T_0, 32\), got"),
        (state.ring.half(), state.open_block.half(), "open_block of dtype float32, got"),
    ]:
        with pytest.raises(ValueError, match=f"expected {message}"):
            OPS.triton_future_fill(ring, opened, *stream[2:], state.levels, 8, 0, 0, 6, 2)
    for column, value, message in [
        ("n_spectra", 2, r"expected n_spectra in 1 \.\. 1, got 2"),
        ("spectra_offset", 5, "expected spectra with at least 7 rows"),
        ("transform", 4, "expected transform of 2, got"),
        ("direct", 1, "expected levels without direct products, which are the CPU's"),
    ]:
        levels = state.levels.clone()
        levels[0, LEVEL_COLUMNS.index(column)] = value
        with pytest.raises(ValueError, match=message):
            OPS.triton_future_fill(*stream, levels, 8, 0, 0, 6, 2)
    for numbers, message in [
        ((8, 2, 0, 6, 2), r"expected index in 0 \.\. 1, got 2"),
        ((7, 0, 0, 6, 2), "expected length 8 like ring, got 7"),
        ((8, 0, 0, 33, 2), r"expected first_channel \.\. last_channel in 0 \.\. 32, multiples"),
        ((8, 0, 8, 32, 2), r"expected first_channel \.\. last_channel in 0 \.\. 32, multiples"),
    ]:
        with pytest.raises(ValueError, match=message):
            OPS.triton_future_fill(*stream, state.levels, *numbers)
    assert torch.equal(state.ring, before)


@pytest.mark.parametrize("limit", [{"largest_passes": 2}, {"index_limit": 4 * 32}])
def test_a_block_that_its_kernels_do_not_hold_is_refused(monkeypatch, limit):
    own = dataclasses.replace(CAPABILITIES["triton"], **limit)
    monkeypatch.setitem(CAPABILITIES, "triton", own)
    state, _ = make_state(Plan(8, (2, 4)), 6, 2, 6)
    state.positions.fill_(4)
    fill = partial(
        OPS.triton_future_fill, state.ring, state.open_block, state.kept, state.spectra,
        state.positions, None, state.levels, 8,
    )  # fmt: skip
    fill(0, 0, 6, 1)
    before = state.ring.clone()
    sizes = f"of at most {own.largest_passes} points, with the channels less than {own.index_limit}"
    with pytest.raises(ValueError, match=f"expected level {sizes}, got Level"):
        fill(1, 0, 6, 1)
    assert torch.equal(state.ring, before)
