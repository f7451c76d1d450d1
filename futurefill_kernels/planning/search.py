"""The cheapest block sizes under any cost model: a shortest path over block sizes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from .capabilities import largest_fused


@dataclass(frozen=True)
class Stream:
    """What is streamed: ``batch_size`` rows of ``channels`` through ``groups`` filters a layer.

    itemsize: bytes of a state entry, 4 or 8; spectra_itemsize: of half a complex entry of a filter
    spectrum on a GPU. largest_fused: largest transform of a GPU fill that is one launch.
    """

    length: int
    filter_length: int
    channels: int
    batch_size: int
    layers: int
    groups: int
    itemsize: int = 4
    spectra_itemsize: int = 4
    largest_fused: int = largest_fused("auto")

    @property
    def rows_per_filter(self) -> float:
        """Channels over all batch rows that read one filter row."""
        return self.batch_size * self.channels / self.groups


def level_firings(stream: Stream, block: int, radix: int) -> list[tuple[float, int]]:
    """How often a level fires over the whole stream, by its number of spectrum products.

    Returns (products, firings) pairs, the last with all the level's spectra; radix as in
    ``Plan.levels``. The ramp of a wide level is grouped: sums of what is linear in the products
    are exact, as in ``Plan.flops_per_token``.
    """
    groups, rest = divmod(stream.length, block * radix)
    partial = max(-(-rest // block) - 1, 0)  # firings in the unfinished group
    spectra = min(radix - 1, -(-stream.filter_length // block))
    pairs: list[tuple[float, int]] = []
    edges = sorted({1, min(partial + 1, spectra), spectra, *range(1, spectra, -(-spectra // 8))})
    for first, after in itertools.pairwise(edges):
        count = (after - first) * (groups + (first <= partial))
        pairs.append(((first + after - 1) / 2, count))
    pairs.append((spectra, groups * (radix - spectra) + max(partial - spectra + 1, 0)))
    return [(products, count) for products, count in pairs if count]


def cheapest_block_sizes(
    length: int,
    starts: Iterable[int],
    first_cost: Callable[[int], float],
    level_cost: Callable[[int, int], float],
) -> tuple[int, ...]:
    """Block sizes, powers of two, with the least sum of costs.

    starts: candidates for ``T_0`` below ``length``; ``length`` itself, no fill at all, is one too.
    first_cost(T_0): the short-range convolution. level_cost(block, radix): a level, which depends
    on nothing else; so the best levels above a block size are found once for each block size.
    """

    @cache
    def above(block: int) -> tuple[float, tuple[int, ...]]:
        if block >= length:
            return 0.0, ()
        options: list[tuple[float, tuple[int, ...]]]
        options = [(level_cost(block, -(-length // block)), (block,))]
        radix = 2
        while block * radix < length:
            cost, sizes = above(block * radix)
            options.append((cost + level_cost(block, radix), (block, *sizes)))
            radix *= 2
        return min(options)

    choices = [(first_cost(t) + above(t)[0], above(t)[1]) for t in starts if t < length]
    choices.append((first_cost(length), (length,)))
    return min(choices)[1]
