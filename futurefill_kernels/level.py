"""The levels of a plan: one block size each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Level:
    """One block size of a plan.

    index: position in ``Plan.levels``, 0 for the smallest block.
    block: block size ``T_l`` in tokens.
    radix: blocks per group, ``b_l = T_{l+1} / T_l``; for the last level, blocks in the context.
    transform: complex transform length, the smallest power of two ``>= block``.
    n_spectra: filter spectra ``H_1 .. H_K`` that are not zero.
    kept: input spectra kept between firings; block ``j`` of a group lives in slot ``j % kept``.
    late: the outputs of a firing begin this many tokens after the blocks that it reads, ``s_l``.
    steps: steps over which the work of a firing may be spread; 0 where it is due at once.
    extra: blocks covered here because the level above is late, ``(s_{l+1} - s_l) / T_l``.
    kept_offset, spectra_offset: where its kept input spectra and its filter spectra start among
        those of all levels, in complex rows.
    made: whether a firing makes the filter spectra that it multiplies, and none are held.
    """

    index: int
    block: int
    radix: int
    transform: int
    n_spectra: int
    kept: int
    late: int = 0
    steps: int = 0
    extra: int = 0
    kept_offset: int = 0
    spectra_offset: int = 0
    made: bool = False

    @property
    def plain(self) -> bool:
        """Whether its groups end where a larger level fires, as everywhere without slack."""
        return self.late == self.extra == 0

    def products(self, n: int) -> int:
        """Spectrum products of the firing after ``n`` blocks; 0 where it does not fire."""
        groups = max((n - self.extra) // self.radix, 0)
        return min(n - groups * self.radix, self.n_spectra)


class LevelWork(NamedTuple):
    """What a level does over the whole length, per channel.

    firings: how often it fires. products: spectrum products of all firings. outputs: pending
    outputs that they add to.
    """

    firings: int
    products: int
    outputs: int


def transform_length(block: int) -> int:
    """Length of a block's complex transform: the smallest power of two ``>= block``."""
    return 1 << (block - 1).bit_length()


def ramp_sum(count: int, most: int) -> int:
    """``min(1, most) + ... + min(count, most)``: taps that the first steps of a block read of a
    filter of ``most`` taps, spectrum products of the first firings of a group.
    """
    ramp = min(count, most)
    return ramp * (ramp + 1) // 2 + (count - ramp) * most
