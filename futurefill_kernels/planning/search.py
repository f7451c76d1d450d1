"""The cheapest block sizes under any cost model: a shortest path over block sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache


def cheapest_block_sizes(
    length: int,
    starts: Iterable[int],
    first_cost: Callable[[int], float],
    level_cost: Callable[[int, int], float],
    *,
    taps: int,
) -> tuple[int, ...]:
    """Block sizes, powers of two, with the least sum of costs.

    starts: candidates for ``T_0`` below ``length``; ``length`` itself, no fill at all, is one too.
    taps: of the filters. No block is larger: it would do no more than one as large as the filter,
    and spread what is NaN or infinite in it farther.
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
        while block * radix < length and block * radix <= taps:
            cost, sizes = above(block * radix)
            options.append((cost + level_cost(block, radix), (block, *sizes)))
            radix *= 2
        return min(options)

    fitting = [t for t in starts if t < length and t <= taps]
    choices: list[tuple[float, tuple[int, ...]]] = []
    if taps >= length:
        choices.append((first_cost(length), (length,)))
    elif not fitting:
        fitting = [1 << taps.bit_length() - 1]
    choices += [(first_cost(t) + above(t)[0], above(t)[1]) for t in fitting]
    return min(choices)[1]
