"""How long the transforms of a GPU prompt are: pure numbers, from what lengths cost on the device.

A cyclic convolution of n points adds what would come n positions later to its first outputs. So one
of n points serves the outputs of a prompt and the future fill behind them at once although it is
shorter than both need together: of the outputs that it spoils, a second, short transform makes the
first ones again. It takes over where a length that a device likes is a little too short, and lets
neither the prompt nor the future double the other's length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

#: Odd factors of lengths that are looked at: products of 3, 5 and 7.
ODD_FACTORS = (1, 3, 5, 7, 9, 15, 21, 25, 27, 35, 45, 49, 63, 75, 81, 105)
#: Lengths are multiples of this, so that rows start at whole vectors.
_MULTIPLE = 32


class PromptLength(NamedTuple):
    """points: of the transform. head: first outputs to be made again, 0 for none. head_points: of
    the transform for them.
    """

    points: int
    head: int
    head_points: int


def prompt_length(
    total: int, taps: int, length: int, seen: int, costs: Mapping[int, float]
) -> PromptLength:
    """The cheapest way to outputs ``seen .. total + length - 1`` of total inputs and taps taps.

    costs: by odd factor, of a point over one of a power of two; others are not looked at.
    """
    whole = total + taps - 1  # points with which nothing wraps
    least = max(total + length, taps)  # all that is read has a place

    def way(points: int) -> tuple[float, PromptLength]:
        spoiled = whole - points
        if spoiled <= seen:  # what is spoiled is not read
            return _cost(points, costs), PromptLength(points, 0, 0)
        head_points = min(lengths(2 * spoiled - 1, costs), key=lambda n: _cost(n, costs))
        cost = _cost(points, costs) + _cost(head_points, costs)
        return cost, PromptLength(points, spoiled, head_points)

    ways = (way(points) for points in lengths(least, costs))
    return min(ways, key=lambda found: (found[0], found[1].head))[1]


def lengths(least: int, costs: Mapping[int, float]) -> Iterator[int]:
    """Of every odd factor those from ``least`` to the second power of two after it."""
    most = 4 << max(least - 1, _MULTIPLE).bit_length()
    for odd in costs:
        n = odd * _MULTIPLE
        while n < most:
            if n >= least:
                yield n
            n *= 2


def _cost(points: int, costs: Mapping[int, float]) -> float:
    return points * costs[points // (points & -points)]
