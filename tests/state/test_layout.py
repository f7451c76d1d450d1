"""Layouts: padding, tiles, and the channels of a share."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import Plan
from futurefill_kernels.state.layout import Layout, from_tiles, tile_filters, to_tiles


@pytest.mark.parametrize(
    ("channels", "groups", "lanes", "filter_lanes"),
    [(1, 1, 32, 32), (7, 7, 32, 32), (100, 20, 128, 32), (64, 1, 64, 32), (1000, 1000, 1024, 1024)],
)
def test_a_padded_layout_is_one_tile_of_whole_warps(channels, groups, lanes, filter_lanes):
    layout = Layout.padded(channels, groups, 50)
    assert (layout.lanes, layout.filter_lanes, layout.slots) == (lanes, filter_lanes, 50)
    assert (layout.tiles, layout.filter_tiles, layout.side_by_side) == (1, 1, 0)
    assert layout.channels_per_filter == channels // groups


@pytest.mark.parametrize("lanes", [1, 4, 8, 32])
def test_tiles_there_and_back(lanes):
    layout = Layout(11, 11, lanes, lanes, 9)
    x = torch.randn(2, 3, 11, 9)
    tiles = to_tiles(x, layout)
    assert tiles.shape == (2, 3, -(-11 // lanes), 9, lanes)
    assert torch.equal(from_tiles(tiles, layout), x)
    assert not tiles[:, :, -1, :, 11 - (layout.tiles - 1) * lanes :].any()


def test_filters_in_tiles():
    rows = torch.randn(5, 2, 11)
    tiles = tile_filters(rows, Layout(11, 11, 4, 4, 9))
    assert tiles.shape == (3, 5, 2, 4)
    assert torch.equal(tiles.movedim(0, -2).flatten(-2)[..., :11], rows)
    assert not tiles[2, ..., 3].any()


def test_shares_of_a_firing_are_all_of_its_channels():
    layout = Layout.padded(200, 200, 200)
    plan = Plan(200, (2, 8, 32), slack_from=8)
    for level in plan.levels:
        if level.plain:
            continue
        steps = max(level.steps, 1)
        shares = [layout.channels_of_share(level, s, s + 1) for s in range(steps)]
        assert [first for first, _ in shares] == [0, *(last for _, last in shares[:-1])]
        assert shares[-1][1] == layout.lanes
        assert all(first % 32 == last % 32 == 0 for first, last in shares)
        assert layout.channels_of_share(level, 0, steps + 3) == (0, layout.lanes)
