"""Workloads: how often levels fire and what their firings keep, against plans."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from futurefill_kernels import Plan
from futurefill_kernels.planning.workload import Firings, Workload, level_firings


@given(st.integers(2, 5000), st.integers(1, 5000), st.integers(0, 6), st.lists(st.integers(1, 3)))
def test_firings_agree_with_the_plan(length, taps, first, steps):
    sizes = [1 << first]
    for step in steps[:4]:
        sizes.append(sizes[-1] << step)
    plan = Plan(length, tuple(sizes), taps)
    workload = Workload(length, plan.filter_length, 8, 1, 1, 8)
    for level in plan.levels:
        firings, products, _ = plan.work(level)
        pairs = level_firings(workload, level.block, level.radix)
        assert sum(same.times for same in pairs) == firings
        assert sum(same.products * same.times for same in pairs) == pytest.approx(products)
        assert all(same.products <= level.n_spectra for same in pairs)
        assert level.n_spectra == workload.n_spectra(level.block, level.radix)


@pytest.mark.parametrize(
    ("length", "taps", "expected"),
    [
        # radix 4, whole groups: the third block of a group is the last to fire
        (128, 128, [Firings(1, 2, True), Firings(2, 2, True), Firings(3, 2, False)]),
        # filters of two blocks end before the group does: every firing is counted as keeping
        (128, 32, [Firings(1, 2, True), Firings(2, 4, True)]),
        # one block of taps: no firing reads an older input spectrum
        (128, 16, [Firings(1, 6, False)]),
        # the second group ends after one firing
        (94, 94, [Firings(1, 2, True), Firings(2, 1, True), Firings(3, 1, False)]),
    ],
)
def test_what_firings_keep(length, taps, expected):
    assert level_firings(Workload(length, taps, 1, 1, 1, 1), 16, 4) == expected


def test_sizes():
    workload = Workload(1000, 40, channels=12, batch_size=3, layers=2, groups=4)
    assert (workload.layer_channels, workload.all_channels) == (36, 72)
    assert workload.rows_per_filter == 9
    assert workload.taps_per_step(4) == (1 + 2 + 3 + 4) / 4
    assert workload.taps_per_step(60) == (sum(range(1, 41)) + 20 * 40) / 60
