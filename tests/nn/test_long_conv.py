"""LongConv: both modes, and sizes that it refuses."""

from __future__ import annotations

import pytest

from futurefill_kernels.nn import LongConv
from tests.nn.mixers import MIXERS, TOLERANCE, check_modes, named


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", named("long-conv"))
def test_prefill_and_steps_equal_the_parallel_form(name, dtype):
    check_modes(MIXERS[name], dtype)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LongConv(4, 8, groups=3), "divide channels = 4, got 3"),
        (lambda: LongConv(4, 0), "context_length >= 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
