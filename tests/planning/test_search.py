"""The shortest path over block sizes, against trying all."""

from __future__ import annotations

import itertools
import random

import pytest

from futurefill_kernels.planning.search import cheapest_block_sizes


def every_choice(length: int, starts: list[int], taps: int) -> list[tuple[int, ...]]:
    """All increasing powers of two below ``length`` from one of the starts, and no fill at all;
    none above ``taps``.
    """
    found = [(length,)] if length <= taps else []
    for start in starts:
        larger = [start << k for k in range(1, 12) if start << k < min(length, taps + 1)]
        for n in range(len(larger) + 1):
            found += [(start, *sizes) for sizes in itertools.combinations(larger, n)]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_is_cheaper(seed):
    """Costs are drawn once for each block and radix: nothing about them is regular."""
    chance = random.Random(seed)
    length, starts = chance.choice([100, 128, 1000]), [4, 8, 32]
    taps = chance.choice([32, 77, length])
    first = {t: chance.random() for t in (*starts, length)}
    level = {
        (t, radix): chance.random()
        for t in (4 << k for k in range(10))
        for radix in range(2, length // 4 + 2)
    }

    def cost(sizes: tuple[int, ...]) -> float:
        total = first[sizes[0]]
        for block, after in itertools.pairwise((*sizes, length)):
            if block < length:
                total += level[block, -(-after // block)]
        return total

    found = cheapest_block_sizes(
        length, starts, first.__getitem__, lambda *at: level[at], taps=taps
    )
    assert cost(found) == pytest.approx(min(map(cost, every_choice(length, starts, taps))))


def test_a_short_length_has_no_fill():
    assert cheapest_block_sizes(8, [8, 16], lambda t: 1.0, lambda t, radix: 1.0, taps=8) == (8,)


@pytest.mark.parametrize("taps", [1, 2, 3, 5, 7])
def test_no_block_is_longer_than_the_filter(taps):
    found = cheapest_block_sizes(100, [8, 16], lambda t: 1.0, lambda t, radix: -1.0, taps=taps)
    assert found[-1] <= taps < 2 * found[-1]
