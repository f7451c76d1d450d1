"""Lengths for a baseline that does not double what it needs."""

from __future__ import annotations

import pytest

from bench.harness.fft_lengths import fair_lengths


@pytest.mark.parametrize("least", [2, 3, 97, 6000, 8447, 262399])
def test_lengths_suffice_and_are_the_smallest(least):
    def smooth(n):
        for p in (2, 3, 5, 7):
            while n % p == 0:
                n //= p
        return n == 1

    power = 1 << (least - 1).bit_length()
    smallest = [n for n in range(least, power + 1) if n % 2 == 0 and smooth(n)][:3]
    assert fair_lengths(least) == sorted({*smallest, power})


def test_a_prompt_is_not_doubled():
    """131,072 positions and 256 to come."""
    assert fair_lengths(2 * 131072 + 256 - 1) == [262440, 262500, 263424, 524288]
