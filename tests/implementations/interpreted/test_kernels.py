"""Triton kernels in Triton's interpreter against float64 and against impl="reference".

TRITON_INTERPRET must be set before Triton is imported, so the files of this folder are test runs of
their own, which tests/implementations/test_triton.py starts.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random

import pytest
import torch

from futurefill_kernels import Plan
from futurefill_kernels.implementations import triton
from futurefill_kernels.state.spectra import inverse_twisted_transform, twisted_transform
from futurefill_kernels.state.tensors import LEVEL_COLUMNS, StreamState, allocate
from tests.fast import combinations
from tests.oracles import TOLERANCE, fill, relative_error, short_range

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("runs with TRITON_INTERPRET=1, see test_triton.py", allow_module_level=True)

OPS = torch.ops.futurefill_kernels
IO_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def make_state(
    plan: Plan,
    channels: int,
    batch: int,
    groups: int,
    layers: int = 1,
    skip: bool = True,
    spectra_dtype: torch.dtype | None = None,
) -> tuple[StreamState, list[torch.Tensor]]:
    """A state with random rings, and its filters (G, L) per layer."""
    assert plan.filter_length is not None
    filters = [torch.randn(groups, plan.filter_length) for _ in range(layers)]
    layout = triton.make_layout(channels, groups, torch.float32, plan)
    weights = torch.randn(layers, channels) if skip else None
    state = allocate(plan, layout, triton.make_spectra, filters, batch, weights, spectra_dtype)
    state.ring[..., :channels].normal_()
    state.kept.fill_(float("nan"))
    return state, filters


def expected_step(
    state: StreamState, h: torch.Tensor, layer: int, b: int, x: torch.Tensor
) -> torch.Tensor:
    """Equation 2 of docs/algorithm.md in float64. x: (D,)."""
    channels = state.layout.channels
    p, block = int(state.positions[b]), state.taps.shape[2]
    slots = state.ring[layer, b, 0, :, :channels].double()
    result = short_range(slots[p], torch.cat([slots[p - p % block : p], x[None]]), h)
    return result if state.skip is None else result + state.skip[layer, :channels].double() * x


STEP_SHAPES = list(itertools.product((1, 7, 64, 100, 1000, 1024), (1, 3, 8), IO_DTYPES))
#: numbers of small cases that have every dtype, batch, kind of block, groups, gates and listed rows
FAST_STEPS = {2, 7, 12, 17, 19, 28, 30, 33}


@pytest.mark.parametrize(
    ("case", "channels", "batch", "dtype"),
    [
        (case, *shape) if case in FAST_STEPS else pytest.param(case, *shape, marks=pytest.mark.slow)
        for case, shape in enumerate(STEP_SHAPES)
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_step(case, channels, batch, dtype):
    torch.manual_seed(case)
    draw = random.Random(case)
    block = draw.choice([1, 2, 3, 16, 24, 64, 96])
    groups = draw.choice([g for g in (1, 5, 7, 20, channels) if channels % g == 0])
    plan = Plan(2 * block + 1, (block,), draw.choice([None, block // 2 + 1]))
    layers, layer = 2, case % 2
    state, filters = make_state(plan, channels, batch, groups, layers, skip=case % 3 > 0)
    # the first, the middle and the last position of a block
    edges = [0, block - 1, block, block + block // 2, 2 * block]
    state.positions.copy_(torch.tensor([draw.choice(edges) for _ in range(batch)]))
    rows = draw.sample([*range(batch), -1], k=batch) if batch > 1 and case % 2 else None
    indices = list(range(batch)) if rows is None else rows
    u, y, pre, post = torch.randn(4, len(indices), channels).to(dtype)
    y = y.fill_(float("nan"))
    pre, post = (pre, post) if case % 4 < 2 else (None, None)
    expected = torch.zeros(len(indices), channels, dtype=torch.float64)
    inputs = u.double() if pre is None else (u.double() * pre.double()).float().double()
    ring, positions = state.ring.clone(), state.positions.clone()
    for r, b in enumerate(indices):
        if b >= 0:
            value = expected_step(state, filters[layer], layer, b, inputs[r])
            expected[r] = value if post is None else value * post[r].double()
            ring[layer, b, 0, positions[b], :channels] = inputs[r].float()
            positions[b] += layer == layers - 1
    OPS.triton_short_range_step(
        *(u, pre, post, y, state.ring, state.taps, state.skip, state.positions),
        *(None if rows is None else torch.tensor(rows), layer, layer == layers - 1),
        channels // groups,
    )
    assert relative_error(y, expected) < max(2e-7, TOLERANCE[dtype] * (dtype != torch.float32))
    assert torch.equal(state.ring, ring)
    assert torch.equal(state.positions, positions)


@dataclasses.dataclass(frozen=True)
class Fill:
    """One level: block, blocks in its group, length, taps, D, B, G, layers."""

    block: int
    radix: int
    channels: int
    batch: int
    groups: int = 0
    layers: int = 1
    short: int = 0  # positions missing in the last block
    taps: int = 0

    def __str__(self) -> str:
        return "-".join(str(value) for value in dataclasses.astuple(self))


FILLS = [
    *(Fill(t, 2, d, b) for t in (1, 2, 4, 8) for d, b in ((1, 1), (7, 3))),
    *(Fill(16, 4, d, b) for d in (1, 7, 64, 100) for b in (1, 3, 8)),
    *(Fill(16, 2, d, b, g, 2) for d, b, g in ((1000, 1, 1000), (1024, 1, 1024), (1000, 3, 20))),
    *(Fill(t, 3, 33, 2, 11, 2, 1) for t in (2, 16, 32, 64, 128, 256)),
    *(Fill(t, 5, 10, 1, 2, 1, t // 2, t) for t in (8, 32, 64)),
    *(Fill(t, 4, 9, 2, 3, 1, 2, 2 * t) for t in (3, 5, 24, 100)),
    *(Fill(t, 3, 8, 1) for t in (128, 300, 512, 1024, 2048)),
    Fill(3000, 3, 3, 2, 3, 1, 5),
    Fill(4096, 4, 34, 1, 17, 2, 0, 5000),
]


#: Rows at different blocks, groups in two layers, filters of one block, blocks with and without
#: ragged ends of one and of several warps, and products between transforms of torch.fft.
FAST_FILLS = (
    Fill(2, 2, 7, 3),
    Fill(16, 4, 7, 3),
    Fill(32, 3, 33, 2, 11, 2, 1),
    Fill(8, 5, 10, 1, 2, 1, 4, 8),
    Fill(24, 4, 9, 2, 3, 1, 2, 48),
    Fill(128, 3, 8, 1),
    Fill(512, 3, 8, 1),
    Fill(3000, 3, 3, 2, 3, 1, 5),
)


@pytest.mark.parametrize("case", combinations(FILLS, fast=FAST_FILLS), ids=str)
def test_fill(case):
    """Every firing of a group, first to last, rows at different blocks where there are several."""
    torch.manual_seed(0)
    length = case.block * case.radix - case.short
    plan = Plan(length, (case.block,), case.taps or None)
    groups = case.groups or case.channels
    state, filters = make_state(plan, case.channels, case.batch, groups, case.layers)
    level = plan.levels[0]
    clean = state.ring.clone()
    for i in range(1, case.radix + case.batch - 1):
        # row b is b blocks behind
        blocks = [min(i - b, case.radix - 1) for b in range(case.batch)]
        firing = [b for b in range(case.batch) if 1 <= i - b < case.radix]
        state.positions.copy_(torch.tensor(blocks).clamp_min(0) * case.block)
        state.ring.copy_(clean)
        rows = None if len(firing) == case.batch else torch.tensor(firing)
        triton.fill(state, level, rows)
        added = state.ring.double() - clean.double()
        for layer, b in itertools.product(range(case.layers), firing):
            p = int(state.positions[b])
            stop = min(p + case.block, length)
            u = clean[layer, b, :, :p, : case.channels].mT
            expected = clean[layer, b, 0, p:stop, : case.channels].double()
            expected = expected + fill(u, filters[layer], case.block)[0].mT[: stop - p]
            got = state.ring[layer, b, 0, p:stop, : case.channels]
            assert relative_error(got, expected) < 4e-7
            added[layer, b, 0, p:stop, : case.channels] = 0
        assert not added.any()


def rounded_fill(state: StreamState, u: torch.Tensor) -> torch.Tensor:
    """Equation 3 in float64 with the state's filter spectra. u: (D, i T) -> (D, T)."""
    level = state.plan.levels[0]
    n, groups = level.transform, state.layout.groups
    rows = state.spectra[0, 0, : level.n_spectra * n, :, :groups].double()
    h = torch.complex(rows[:, 0], rows[:, 1]).view(level.n_spectra, n, groups).mT
    h = h.repeat_interleave(len(u) // groups, dim=1)  # (K, D, n)
    blocks = torch.nn.functional.pad(
        u.double().unflatten(1, (-1, level.block)), (0, n - level.block)
    )
    x = twisted_transform(torch.complex(blocks, 0 * blocks)).flip(1)  # newest first
    products = sum(x[:, k] * h[k] for k in range(min(x.shape[1], len(h))))
    return n * inverse_twisted_transform(products).imag[:, : level.block]


@pytest.mark.parametrize(
    "block", combinations([1, 3, 8, 16, 64, 200, 256, 512, 2048, 4096], fast={3, 256, 4096})
)
def test_fill_with_bfloat16_spectra(block):
    """Everything but the spectra is float32, and the spectra are rounded once."""
    torch.manual_seed(block)
    plan, channels, groups = Plan(4 * block, (block,), 3 * block), 12, 4
    state, filters = make_state(plan, channels, 1, groups, spectra_dtype=torch.bfloat16)
    full, _ = make_state(plan, channels, 1, groups)
    assert state.spectra.dtype == torch.bfloat16
    assert 2 * state.spectra.nbytes == full.spectra.nbytes
    clean = state.ring.clone()
    for i in (1, 2, 3):
        p = i * block
        state.ring.copy_(clean)
        state.positions.fill_(p)
        triton.fill(state, plan.levels[0], None)
        got = state.ring[0, 0, 0, p : p + block, :channels].double()
        before = clean[0, 0, 0, :, :channels].double()
        expected = before[p : p + block] + rounded_fill(state, before[:p].mT).mT
        assert relative_error(got, expected) < 4e-7
        exact = before[p : p + block] + fill(before[None, :p].mT, filters[0], block)[0].mT
        assert relative_error(got, exact) < 2**-8
        assert relative_error(got, exact) > 1e-5  # rounded it is


def test_opcheck_and_compile():
    plan = Plan(40, (4, 8))
    state, _ = make_state(plan, 6, 2, 3)
    state.kept.zero_()

    def step(u, y):
        OPS.triton_short_range_step(
            *(u * 2, None, u, y, state.ring, state.taps, state.skip, state.positions, None),
            *(0, True, 2),
        )
        return y + 1

    stream = (state.ring, state.kept, state.spectra, state.positions)

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
        OPS.triton_short_range_step.default,
        (u, None, u, y, state.ring, state.taps, state.skip, state.positions, None, 0, True, 2),
    )
    state.positions.fill_(4)
    torch.library.opcheck(
        OPS.triton_future_fill.default, (*stream, None, state.levels, 40, 0, 0, 6, 2)
    )


def test_wrong_arguments_change_nothing():
    state, _ = make_state(Plan(8, (2, 4)), 6, 2, 3)
    good = {
        "u": torch.ones(2, 6), "pre": None, "post": None, "y": torch.zeros(2, 6),
        "ring": state.ring, "taps": state.taps, "skip": state.skip,
        "positions": state.positions, "rows": None, "layer": 0, "advance": True,
        "channels_per_filter": 2,
    }  # fmt: skip
    before = state.ring.clone()
    for change, message in [
        ({"u": torch.ones(3, 6)}, "expected u with 2 rows, got 3"),
        ({"u": torch.ones(2, 40)}, r"expected u \(R, D <= 32\), got"),
        ({"u": torch.ones(2, 6).double()}, "expected u of 16 or 32 bits, got torch.float64"),
        ({"y": torch.zeros(2, 6).half()}, "expected y of dtype torch.float32, got torch.float16"),
        ({"y": torch.zeros(6, 2).T}, r"expected y contiguous, got strides \(1, 2\)"),
        ({"pre": torch.ones(2, 5)}, r"expected pre \(R, D\) = \(2, 6\), got \(2, 5\)"),
        ({"ring": state.ring.double()}, "expected ring of dtype float32, got torch.float64"),
        ({"ring": state.ring[..., :6]}, "expected ring contiguous"),
        ({"rows": torch.tensor([0, 1], dtype=torch.int32)}, "expected rows of dtype int64"),
        ({"layer": 1}, r"expected layer in 0 \.\. 0, got 1"),
        ({"channels_per_filter": 4}, "expected channels_per_filter to divide 6, got 4"),
        ({"channels_per_filter": 0}, "expected taps with a filter for every 0 of 32 channels"),
    ]:
        with pytest.raises(ValueError, match=message):
            OPS.triton_short_range_step(**(good | change))
    stream = (state.ring, state.kept, state.spectra, state.positions, None)
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
