"""CUDA fills in three passes in the emulator, against the float64 reference, and planted faults."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.implementations import gpu_passes
from futurefill_kernels.implementations import reference as plain
from futurefill_kernels.plan import Plan
from tests.emulation import emulator
from tests.emulation.cuda_rig import run_long_fill
from tests.fast import combinations
from tests.implementations.cuda_pairs import FILL_ERROR, fill_errors, make_pair, needs_emulator
from tests.oracles import relative_error

pytestmark = needs_emulator


def test_rows_at_blocks_of_their_own():
    """No power of two, with shared filters, a kept spectrum and a short last block; rows that do
    not fire, padding, and those that are not named stay.
    """
    block = 9000
    plan = Plan(3 * block - 100, (block,))
    state, reference = make_pair(plan, 6, groups=2, batch=4)
    for positions in ([block, block, 5, block], [2 * block, block - 1, block, 2 * block]):
        for each in (state, reference):
            each.positions.copy_(torch.tensor(positions))
        before = state.ring.clone()
        run_long_fill(state, plan.levels[0], torch.tensor([2, -1, 0]), checks=False)
        plain.fill(reference, plan.levels[0], torch.tensor([2, 0]))
        assert relative_error(state.ring[..., :6], reference.ring) < FILL_ERROR
        assert torch.equal(state.ring[:, [1, 3]], before[:, [1, 3]])
        assert not state.ring[..., 6:].any()


@pytest.mark.parametrize(
    ("block", "arch", "memory"),
    combinations(
        [16384, 20000, 32768, 50000, 65536, 131072, 262144], ["sm_80", "sm_90"], [0, 1],
        fast=[(16384, "sm_90", 0)],
    ),
)  # fmt: skip
def test_fill_of_every_transform(block, arch, memory):
    plan = Plan(3 * block - 100, (block,))
    state, reference = make_pair(plan, 3)
    errors = fill_errors(
        state, reference, plan.levels[0], [block, 2 * block], run=run_long_fill, arch=arch,
        memory=memory, checks=block < 20000,
    )  # fmt: skip
    assert max(errors) < FILL_ERROR


@pytest.mark.slow
def test_many_products_and_parts_of_layers_and_channels(monkeypatch):
    """A workspace for one unit of channels of one layer; the oldest kept spectrum's slot is taken
    by the newest.
    """
    block = 10000
    plan = Plan(5 * block, (block,), 2 * block)
    state, reference = make_pair(plan, 40, groups=4, layers=2, taps=2 * block)
    monkeypatch.setattr(gpu_passes, "WORKSPACE_BYTES", 1)
    errors = fill_errors(
        state, reference, plan.levels[0], [block, 2 * block, 3 * block, 4 * block],
        run=run_long_fill, checks=False,
    )  # fmt: skip
    assert max(errors) < FILL_ERROR


@pytest.mark.slow
def test_shares_of_a_late_fill():
    """32 channels at a time in the steps that follow a boundary."""
    block = 16384
    plan = Plan(3 * block - 3, (block // 4, block), slack_from=block)
    state, reference = make_pair(plan, 40)
    late = plan.levels[1]
    for p in (block, 2 * block - late.late):
        p = p // block * block
        for first, last in ((0, 32), (32, 64)):
            state.positions[:] = p + (late.steps - 1 if first else 0)
            run_long_fill(state, late, channels=(first, last), checks=False)
        reference.positions[:] = p
        plain.fill(reference, late, None)
        assert relative_error(state.ring[..., :40], reference.ring) < FILL_ERROR
    before = state.ring.clone()
    state.positions[:] = block + late.steps
    run_long_fill(state, late, checks=False)
    assert torch.equal(state.ring, before), "a fill after its steps"


@pytest.mark.parametrize(
    ("text", "replacement", "expected"),
    [
        ("(row.end - a.block + t.k)", "(row.end - a.block - 1 + t.k)", "out-of-bounds"),
        ("* a.transform + k) * width", "* a.transform + k + 1) * width", "out-of-bounds"),
        (
            "forward_first<P>(v);",
            "forward_first<P>(v); if (k == 3) return;",
            "uninit|barrier",
        ),
    ],
)
def test_planted_fault(text, replacement, expected):
    plan = Plan(2 * 16384, (16384,))
    state, _ = make_pair(plan, 2)
    state.positions[:] = 16384
    with pytest.raises(emulator.load().EmuError, match=expected):
        run_long_fill(state, plan.levels[0], edits=(("long_fill.cuh", text, replacement),))


def test_parts_cover_all_layers_and_channels(monkeypatch):
    """Whatever fits the workspace, every part is as wide, and the workspace is one tensor."""
    unit = 8 * 64 * 2 * 32  # bytes of a unit of channels of one layer, 64 points and 2 rows
    for units in (0, 1, 2, 3, 5, 6, 11, 100):
        monkeypatch.setattr(gpu_passes, "WORKSPACE_BYTES", units * unit)
        found = list(gpu_passes.parts(64, 2, 3, 32, 32 + 6 * 32 - 1, torch.device("cpu")))
        covered = [
            (layer, channel)
            for part in found
            for layer in range(part.layer, part.layer + part.layers)
            for channel in range(part.channel, part.channel + part.channels, 32)
        ]
        assert sorted(covered) == [(i, 32 * c) for i in range(3) for c in range(1, 7)]
        assert len({part.channels for part in found}) == 1
        assert {part.scratch.data_ptr() for part in found} == {found[0].scratch.data_ptr()}
        assert all(4 * p.scratch.numel() <= max(units, 1) * unit for p in found)
        assert all(p.scratch.numel() == p.layers * 64 * 2 * p.channels * 2 for p in found)


@pytest.mark.parametrize("quarters", [0, 1])
@pytest.mark.parametrize("nodes", [2, 8])
def test_twists(nodes, quarters):
    """Split coefficients, twisted, give nodes whose values at their roots are the block's, in its
    order.
    """
    torch.manual_seed(nodes)
    length = 16

    def roots(of: float, n: int) -> torch.Tensor:
        """Of x^n = exp(2 pi i of), in tree order."""
        turns = torch.tensor([of], dtype=torch.float64)
        for _ in range(n.bit_length() - 1):
            turns = torch.stack([turns / 2, turns / 2 + 0.5], -1).flatten()
        return torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)

    def values(z: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return (at[:, None] ** torch.arange(z.shape[-1])) @ z.T

    z = torch.randn(nodes * length, dtype=torch.complex128)
    split = (roots(0.25, nodes)[:, None] ** torch.arange(nodes)) @ z.view(nodes, length)
    pairs = gpu_passes.twist_table(nodes, length, quarters, torch.device("cpu"))
    twist = torch.view_as_complex(pairs.double().view(nodes, length, 2))
    got = values(split * twist, roots(quarters / 4, length)).T.flatten()
    expected = values(z[None], roots(0.25, nodes * length)).flatten()
    assert relative_error(torch.view_as_real(got), torch.view_as_real(expected)) < 1e-7
