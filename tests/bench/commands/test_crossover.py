"""Where two curves cross."""

from __future__ import annotations

import pytest

from bench.commands import crossover


@pytest.mark.parametrize(
    ("ratios", "size"), [((0.5, 2.0, 8.0), 2**0.5), ((2.0, 3.0, 4.0), 1), ((0.1, 0.2, 0.4), 4)]
)
def test_crossing(ratios, size):
    found, _ = crossover.crossing(list(zip((1, 2, 4), ratios, strict=True)))
    assert found == pytest.approx(size)
