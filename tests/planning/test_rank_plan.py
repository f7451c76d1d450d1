"""Bytes and seconds of a rank: counted on models, and what the collectives' model says."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig
from futurefill_kernels.planning.device import DeviceInfo
from futurefill_kernels.planning.link import Link
from futurefill_kernels.planning.rank_plan import ModelSizes, link_seconds, rank_plan, rank_plans

H100, LINK = DeviceInfo.named("h100"), Link(450e9, 5e-6)
LARGE = ModelSizes(4096, 24, 16384, 50304, 65536, itemsize=2)


@pytest.mark.parametrize("mixer", ["hyena", "stu"])
def test_one_rank_holds_the_parameters_of_the_model(mixer):
    config = LanguageModelConfig(
        37, 64, 24, 3, 40, filter_hidden=20, mixer=mixer, spectral_filters=5
    )
    with torch.device("meta"):
        model = LanguageModel(config)
    sizes = ModelSizes(
        24, 3, 40, 37, 64, mixer=mixer, filter_hidden=20, spectral_filters=5, itemsize=4
    )
    assert sizes.weight_nbytes(1) == sum(p.nbytes for p in model.parameters())
    assert sizes.cannot_divide(4) == []
    assert sizes.cannot_divide(16) == [
        "16 ranks do not divide channels = 24", "16 ranks do not divide mlp_hidden = 40",
    ]  # fmt: skip


def test_collectives_take_rounds_of_latency_and_their_bytes():
    link = Link(2e9, 1e-6)
    assert link.all_reduce(8, 1) == 0
    assert link.all_reduce(0, 8) == pytest.approx(3e-6)
    # of many bytes twice what a rank does not have already
    assert link.all_reduce(2e9, 8) == pytest.approx(2 * 7 / 8, rel=1e-4)
    assert link.all_gather(2e9, 8) == pytest.approx(7 / 8, rel=1e-4)
    assert link.all_reduce(1e6, 2) == pytest.approx(1e-6 + 0.5e-3)
    with pytest.raises(ValueError, match="more than 0 bytes per second"):
        Link(0, 0)


def test_a_token_sends_one_sum_per_mixer_and_mlp():
    rows = dataclasses.replace(LARGE, batch_size=3)
    x, logits = 3 * 4096 * 2, 3 * 50304 * 2
    expected = 49 * LINK.all_reduce(x, 4) + LINK.all_gather(logits, 4)
    assert link_seconds(rows, 4, LINK) == pytest.approx(expected)


def test_ranks_share_bytes_and_reading_and_pay_for_the_link():
    plans = rank_plans(LARGE, 8, H100, LINK)
    assert [p.ranks for p in plans] == [1, 2, 4, 8]
    # of a million positions no plan's state is small enough for one
    long = rank_plan(dataclasses.replace(LARGE, length=1 << 20), 1, H100, LINK)
    assert long.plan is None
    assert math.isnan(long.seconds)
    two, four, eight = plans[1:]
    assert two.weights < 1.01 * 2 * four.weights
    assert two.nbytes > four.nbytes > eight.nbytes  # not by half: plans may be others
    assert two.seconds_weights == pytest.approx(4 * eight.seconds_weights)
    assert two.seconds_link < four.seconds_link < eight.seconds_link
    slow = rank_plans(LARGE, 8, H100, Link(1e9, 1e-3))
    assert slow[-1].seconds > slow[1].seconds  # more ranks do not pay there


def test_ranks_that_do_not_divide_the_model_are_left_out_or_refused():
    sizes = ModelSizes(96, 2, 96, 100, 256)
    assert [p.ranks for p in rank_plans(sizes, 12, H100, LINK)] == [1, 2, 4, 8, 12]
    with pytest.raises(ValueError, match="10 ranks do not divide channels = 96"):
        rank_plan(sizes, 10, H100, LINK)
