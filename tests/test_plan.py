"""Plans as pure numbers: which level fires when, and what it costs, against counting."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from futurefill_kernels import Plan


@st.composite
def plans(draw) -> Plan:
    sizes = [draw(st.integers(1, 9))]
    for radix in draw(st.lists(st.integers(2, 5), max_size=3)):
        sizes.append(sizes[-1] * radix)
    length = draw(st.integers(1, 150))
    slack_from = draw(st.sampled_from([None, *sizes[1:]]))
    return Plan(length, tuple(sizes), draw(st.integers(1, 200)), slack_from)


@given(plans())
def test_every_input_reaches_every_later_output_once(plan):
    """Count contributions tap by tap: fills and the short-range convolution tile the triangle."""
    length, taps = plan.length, plan.filter_length
    seen = torch.zeros(length, length, dtype=torch.int64)  # [output, input]
    for t in range(length):
        seen[t, t - t % plan.base : t + 1] += 1
        for fired in plan.levels_at(t):
            level, p = plan.levels[fired], t + 1
            blocks = level.products(p // level.block)
            assert 1 <= blocks <= level.n_spectra
            # H_k carries the k-th newest block through taps late + (k-1)T .. late + (k+1)T - 1
            start = p + level.late
            outputs = torch.arange(start, min(start + level.block, length))[:, None]
            inputs = torch.arange(p - blocks * level.block, p)[None]
            seen[outputs, inputs] += 1
    lag = torch.arange(length)[:, None] - torch.arange(length)[None]
    assert (seen[(lag >= 0) & (lag < taps)] == 1).all()
    assert (seen[lag < 0] == 0).all()


@given(plans(), st.integers(0, 60))
def test_a_leap_of_an_endless_plan_changes_nothing(plan, rollback):
    """Blocks, groups, kept spectra, undo slots: all that depends on a position is where it was."""
    plan = Plan(None, plan.block_sizes, plan.filter_length, rollback=rollback)
    window = plan.window
    assert plan.slots == window.slots
    assert plan.end == window.end
    assert window.period >= max(1024, rollback + 1, window.first)
    for position in (0, window.end, window.end + 1, window.end + window.period, 2**40):
        place = plan.place(position)
        assert 0 <= place <= window.end
        assert (position - place) % window.period == 0
        assert place > window.first or place == position
    for level in plan.levels:
        assert window.first % level.block == window.period % level.block == 0
        if level.kept and level is plan.levels[-1]:  # groups of the others end with a window
            assert window.period // level.block % level.kept == 0
        for back in range(window.first - rollback, window.first + 1):
            n = back // level.block  # spectra of the newest firing, before and after the leap
            assert level.products(n) == level.products(n + window.period // level.block)
    # a firing at the end keeps its spectrum: another one could follow
    assert all(window.end + 2 * level.block <= plan.slots for level in plan.levels)


def test_an_endless_plan_counts_what_a_long_one_does():
    sizes, taps = (4, 16, 64), 150
    endless, long = Plan(None, sizes, taps), Plan(10**7, sizes, taps)
    assert endless.flops_per_token == pytest.approx(long.flops_per_token, rel=1e-4)
    assert endless.explain().splitlines()[0] == "any number of tokens, filters of 150 taps"
    rows = [plan.explain().splitlines()[4:] for plan in (endless, long)]
    assert [row.split()[2] for row in rows[0][:3]] == [row.split()[2] for row in rows[1][:3]]


@given(plans())
def test_operations_are_counted_exactly(plan):
    total = 0
    fired = []
    for t in range(plan.length):
        total += 2 * min(t % plan.base + 1, plan.filter_length)
        for index in plan.levels_at(t):
            level, p = plan.levels[index], t + 1
            n = level.transform
            stages = n.bit_length() - 1
            products = level.products(p // level.block)
            total += 10 * n * stages + 6 * n + 8 * n * (products - 1)
            total += min(level.block, plan.length - p - level.late)
            fired.append(index)
    assert plan.flops_per_token == pytest.approx(total / plan.length)
    assert [plan.firings(level) for level in plan.levels] == [
        fired.count(level.index) for level in plan.levels
    ]


@given(plans())
def test_kept_spectra_are_never_overwritten_before_their_last_use(plan):
    for level in plan.levels:
        slots: dict[int, int] = {}
        for n in range(1, -(-plan.length // level.block)):
            blocks = level.products(n)
            if blocks == 0:  # a larger level fires and the group ends
                slots.clear()
                continue
            assert all(slots[j % level.kept] == j for j in range(n - blocks, n - 1))
            if level.kept:
                slots[(n - 1) % level.kept] = n - 1


@given(plans())
def test_slack_levels_finish_in_order(plan):
    """A level is done before the level below starts on the same outputs."""
    for below, level in itertools.pairwise(plan.levels):
        assert level.late == below.late + level.steps
        assert level.steps in (0, below.block)
        assert level.late < level.block


def test_named_plans():
    assert Plan.epoched(1000, 100).block_sizes == (100,)
    assert Plan.continuous(1000, 32).block_sizes == (32, 64, 128, 256, 512)
    assert Plan.continuous(32, 32).levels == ()
    assert Plan(10, (16,)).base == 10


@pytest.mark.parametrize(
    ("length", "sizes", "message"),
    [
        (0, (1,), "length None or >= 1, got 0"),
        (None, (1,), "filter_length with length None"),
        (8, (), "positive integers"),
        (8, (0, 2), "positive integers"),
        (8, (4, 4), "4 then 4"),
        (8, (4, 6), "4 then 6"),
    ],
)
def test_bad_plans_are_named(length, sizes, message):
    with pytest.raises(ValueError, match=message):
        Plan(length, sizes)


def test_slack_begins_at_a_block_size():
    with pytest.raises(ValueError, match=r"slack_from .* \(8, 16\), got 4"):
        Plan(64, (4, 8, 16), slack_from=4)


def test_explain_lists_every_level():
    text = Plan(65536, (32, 256, 4096)).explain()
    assert [line.split()[0] for line in text.splitlines()[4:7]] == ["32", "256", "4096"]
    assert f"{Plan(65536, (32, 256, 4096)).flops_per_token:.0f} operations" in text
