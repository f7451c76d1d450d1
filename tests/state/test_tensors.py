"""The tensors of a stream: shapes, bytes, the table of levels."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from futurefill_kernels import Plan
from futurefill_kernels.implementations.select import IMPLEMENTATIONS
from futurefill_kernels.state.layout import Layout
from futurefill_kernels.state.spectra import tiled_spectra
from futurefill_kernels.state.tensors import (
    LEVEL_COLUMNS,
    allocate,
    level_table,
    state_nbytes,
    state_parts,
)


@pytest.mark.parametrize(
    ("channels", "groups", "lanes", "filter_lanes"),
    [(1, 1, 32, 32), (7, 7, 32, 32), (100, 20, 128, 32), (64, 1, 64, 32), (1000, 1000, 1024, 1024)],
)
def test_shapes_of_the_padded_layout(channels, groups, lanes, filter_lanes):
    plan = Plan(50, (4, 8), filter_length=30)
    layout = Layout.padded(channels, groups, plan.length)
    h = torch.randn(groups, 30)
    skip = torch.ones(channels)
    state = allocate(plan, layout, tiled_spectra, [h, h], 3, skip)
    assert state.ring.shape == (2, 3, 1, 50, lanes)
    assert state.kept.shape == (2, 3, 1, plan.kept_rows, 2, lanes)
    assert state.spectra.shape == (2, 1, plan.spectra_rows, 2, filter_lanes)
    assert state.taps.shape == (2, 1, 4, filter_lanes)
    assert state.skip is not None
    assert state.skip.shape == (2, lanes)
    assert state.levels.shape == (len(plan.levels), 14)
    assert state.levels.device.type == "cpu"
    expected = state_nbytes(plan, layout, layers=2, batch_size=3, filters=(groups, 30), skip=True)
    assert state.nbytes == expected


@pytest.mark.parametrize("slack_from", [None, 8, 32])
def test_bytes_before_and_after(impl, slack_from):
    plan = Plan(200, (2, 8, 32), slack_from=slack_from)
    module = IMPLEMENTATIONS[impl]
    layout = module.make_layout(12, 3, torch.float32, plan)
    state = allocate(plan, layout, module.make_spectra, [torch.randn(3, 200)], 2, None)
    expected = state_parts(plan, layout, layers=1, batch_size=2, filters=(3, 200))
    assert state.parts == expected
    assert state.nbytes == sum(expected.values())


@pytest.mark.parametrize("slack_from", [None, 8, 32])
def test_the_table_has_every_level_whole(slack_from):
    plan = Plan(200, (2, 8, 32), slack_from=slack_from)
    layout = Layout(8, 8, 8, 8, 200, direct=8, work_gaps=5)
    rows = [
        dict(zip(LEVEL_COLUMNS, row, strict=True))
        for row in level_table(plan.levels, layout).tolist()
    ]
    work = 0
    for level, row in zip(plan.levels, rows, strict=True):
        fields = dataclasses.asdict(level)
        assert {name: row[name] for name in row if name in fields} == {
            name: fields[name] for name in fields if name in row
        }
        assert row["direct"] == (level.plain and level.block <= 8)
        assert row["work_offset"] == work
        work += 0 if level.plain else level.transform + 5
    assert set(LEVEL_COLUMNS) - set(dataclasses.asdict(plan.levels[0])) == {
        *("direct", "work_offset", "images_offset", "images"),
    }


def test_a_plan_without_levels_has_an_empty_table():
    assert level_table((), Layout(1, 1, 1, 1, 4)).shape == (0, 14)


def test_own_tensors_beside_what_never_changes():
    plan = Plan(50, (4, 8))
    layout = Layout.padded(3, 3, plan.length)
    state = allocate(plan, layout, tiled_spectra, [torch.randn(3, 50)], 2, None)
    other = state.with_own_tensors(50)
    assert other.prepared is state.prepared
    assert other.levels is state.levels
    other.ring.fill_(1)
    other.positions.fill_(1)
    assert not state.ring.any()
    assert not state.positions.any()
