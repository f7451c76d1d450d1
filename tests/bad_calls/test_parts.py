"""Modules cut over ranks, and what a module or cache of one's own leaves out: no process is
started.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from futurefill_kernels.nn.brackets import Bracketed
from futurefill_kernels.nn.parallel.linear import Columns
from futurefill_kernels.nn.parallel.ranks import Ranks
from futurefill_kernels.nn.parallel.sharded import own_part
from futurefill_kernels.nn.parallel.split import Split
from futurefill_kernels.nn.parallel.vocabulary import VocabularyEmbedding
from futurefill_kernels.nn.stu import spectral_filters
from tests.bad_calls.refusals import BAD, refusal


def mesh(dimensions=1):
    """One of two ranks, without processes."""
    return SimpleNamespace(
        ndim=dimensions, get_group=lambda: None, size=lambda: 2, get_local_rank=lambda: 0
    )


PARTS = {
    "a mesh of two dimensions": (lambda: Ranks(mesh(2)), "one dimension", "got 2"),
    "parts that ranks do not divide": (
        lambda: Split(0, 10, 2, 2), "2 ranks", "10 entries", "2 parts",
    ),
    "another dimension": (
        lambda: own_part(torch.ones(3), Split(0, 4, 2), None), "4 entries", "(3,)",
    ),
    "columns that ranks do not divide": (
        lambda: Columns()._apply(nn.Linear(2, 5), mesh()), "divide", "5", "got 2 ranks",
    ),
    "no mixers": (lambda: ff.nn.parallel_plan(nn.Linear(2, 2)), "Linear", "no ff.nn mixers"),
    "a convolution alone": (
        lambda: ff.nn.parallel_plan(nn.Sequential(ff.nn.ShortConv(4))), "0 is no part", "ShortConv",
    ),
    "filters without taps": (
        lambda: ff.nn.LongFilter(2, 8).taps(8), "LongFilter", "must define taps(length)",
    ),
    "begin_call": (lambda: Bracketed().begin_call(None, []), "must define begin_call"),
    "end_call": (lambda: Bracketed().end_call(None, failed=False), "must define end_call"),
    "more filters than positions": (lambda: spectral_filters(4, 5), "count", "length = 4", "got 5"),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_a_part_that_is_refused(case):
    call, *parts = PARTS[case]
    with refusal(*parts, kind=BAD):
        call()


def test_ids_outside_a_vocabulary_over_ranks():
    with refusal("0 .. 7", "got 2 .. 8", kind=IndexError):
        VocabularyEmbedding(8, 2)(torch.tensor([2, 8]))
