"""Times of fewer steps, scaled."""

from __future__ import annotations

import pytest

from bench.commands.volterra import scale


def test_scaling_keeps_the_linear_and_the_square_part():
    def seconds(n):
        return 3e-5 * n + 2e-9 * n**2

    assert scale(500, seconds(500), 1000, seconds(1000), 64_000) == pytest.approx(seconds(64_000))
    # noise that bends the wrong way is taken as linear
    assert scale(500, 1.0, 1000, 1.5, 2000) == pytest.approx(3.0)
