"""Hyena: both modes, and orders that it refuses."""

from __future__ import annotations

import pytest

from futurefill_kernels.nn import Hyena
from tests.nn.mixers import MIXERS, TOLERANCE, check_modes, named


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", named("hyena"))
def test_prefill_and_steps_equal_the_parallel_form(name, dtype):
    check_modes(MIXERS[name], dtype)


def test_an_impossible_order_is_refused():
    with pytest.raises(ValueError, match="order >= 2, got 1"):
        Hyena(4, 8, order=1)
