"""Lengths at which torch.fft is fast."""

from __future__ import annotations

import itertools


def fair_lengths(least: int, count: int = 3) -> list[int]:
    """Even lengths of at least ``least`` points: the ``count`` smallest whose factors are 2, 3, 5
    and 7, and the smallest power of two.
    """
    power = 1 << max(least - 1, 1).bit_length()
    found = {power}
    for odd in _odd_products(power):
        n = 2 * odd
        while n < least:
            n *= 2
        found.add(n)
    return sorted({*sorted(n for n in found if n <= power)[:count], power})


def _odd_products(most: int) -> list[int]:
    """Products of 3, 5 and 7 up to a number."""
    powers = [
        list(itertools.takewhile(lambda n: n <= most, (p**k for k in itertools.count())))
        for p in (3, 5, 7)
    ]
    products = {a * b * c for a, b, c in itertools.product(*powers)}
    return [n for n in products if n <= most]
