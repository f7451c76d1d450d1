"""Triton fills in Triton's interpreter against float64 and against impl="reference".

TRITON_INTERPRET must be set before Triton is imported, so the files of this folder are test runs of
their own, which tests/implementations/test_triton.py starts.
"""

from __future__ import annotations

import dataclasses
import itertools
import os

import pytest
import torch

from futurefill_kernels import Plan
from futurefill_kernels.implementations import gpu_passes, triton
from futurefill_kernels.state.spectra import inverse_twisted_transform, twisted_transform
from futurefill_kernels.state.tensors import StreamState
from tests.fast import combinations
from tests.implementations.interpreted.states import make_state
from tests.oracles import fill, relative_error

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("runs with TRITON_INTERPRET=1, see test_triton.py", allow_module_level=True)

from futurefill_kernels.implementations.triton_kernels import config


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
#: ragged ends of one and of several warps.
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
    check_fill(case)


#: Two nodes and many, ragged blocks and ends, rows at different blocks, kept spectra, groups.
LONG_FILLS = [
    Fill(64, 2, 40, 2),
    Fill(100, 4, 9, 2, 3, 1, 2, 200),
    Fill(256, 3, 33, 2, 11, 2, 1),
    Fill(300, 3, 70, 1),
    Fill(512, 4, 5, 3, 0, 1, 100),
    Fill(2048, 2, 5, 1),
]


@pytest.mark.parametrize(
    ("case", "workspace"),
    combinations(LONG_FILLS, [1, 1 << 20], fast=[(LONG_FILLS[1], 1 << 20), (LONG_FILLS[2], 1)]),
    ids=str,
)
def test_fill_in_three_passes(case, workspace, monkeypatch):
    """As if a program held 32 points; with a workspace for a unit of channels, and for more."""
    for name in ("_FILL", "_KEEPING_FILL"):
        short = {n: found for n, found in getattr(config, name).items() if n <= 32}
        monkeypatch.setattr(config, name, short)
    monkeypatch.setattr(config, "NODE_POINTS", (32,))
    monkeypatch.setattr(gpu_passes, "WORKSPACE_BYTES", workspace)
    check_fill(case)


#: Plans with a smallest level, whose sums are not rounded, and a larger one; their last block.
NARROW = [((4, 16), 61), ((3, 24), 100), ((1, 8), 40), ((16, 128), 384)]


@pytest.mark.parametrize(
    ("case", "in_passes", "ring_dtype"),
    combinations(
        range(len(NARROW)), [False, True], [torch.bfloat16, torch.float16],
        fast=[(1, False, torch.bfloat16), (1, True, torch.float16)],
    ),
)  # fmt: skip
def test_fill_of_a_state_of_16_bits(case, in_passes, ring_dtype, monkeypatch):
    """Sums are rounded once, in the open block not at all; rows at different blocks, padding; and
    without an open block, as streams are built again.
    """
    torch.manual_seed(case)
    if in_passes:
        for name in ("_FILL", "_KEEPING_FILL"):
            short = {n: found for n, found in getattr(config, name).items() if n <= 8}
            monkeypatch.setattr(config, name, short)
        monkeypatch.setattr(config, "NODE_POINTS", (8,))
    sizes, length = NARROW[case]
    layers = 1 if in_passes else 2
    state, filters = make_state(Plan(length, sizes), 9, 3, 3, layers, ring_dtype=ring_dtype)
    clean, opened = state.ring.clone(), state.open_block.clone()
    for level, closed in itertools.product(state.plan.levels, (False, True)):
        newest = (length - 1) // level.block
        last = max(n for n in range(newest + 1) if level.products(n) == 1)
        state.positions.copy_(torch.tensor([last, 1, 1]) * level.block)
        state.ring.copy_(clean)
        state.open_block.copy_(opened)
        given = state.without_open_block() if closed else state
        triton.fill(given, level, torch.tensor([2, -1, 0]))
        assert torch.equal(state.ring[:, 1], clean[:, 1])
        assert torch.equal(state.open_block[:, 1], opened[:, 1])
        for layer, b in itertools.product(range(layers), (0, 2)):
            p = int(state.positions[b])
            stop = min(p + level.block, length)
            first = p if closed else min(p + sizes[0], stop)  # that is not in the open block
            ring, before = state.ring[layer, b, 0, :, :9], clean[layer, b, 0, :, :9].double()
            added = fill(before[p - level.block : p].mT[None], filters[layer], level.block)[0].mT
            expected = (before[first:stop] + added[first - p : stop - p]).to(ring_dtype)
            # a sum that is next to the middle of two numbers
            eps = torch.finfo(ring_dtype).eps
            scale = float(added.abs().max())
            torch.testing.assert_close(ring[first:stop], expected, rtol=eps, atol=1e-6 * scale)
            if ring_dtype == torch.float16:  # the interpreter cuts bfloat16 off, no GPU does
                assert (ring[first:stop] != expected).sum() <= 2 + 0.01 * expected.numel()
            ring[first:stop] = clean[layer, b, 0, first:stop, :9]
            block, n = state.open_block[layer, b, 0, :, :9], first - p
            expected = opened[layer, b, 0, :n, :9].double() + added[:n]
            torch.testing.assert_close(block[:n].double(), expected, rtol=0, atol=3e-6 * scale)
            block[:n] = opened[layer, b, 0, :n, :9]
        assert torch.equal(state.ring, clean)
        assert torch.equal(state.open_block, opened)


def check_fill(case: Fill) -> None:
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
