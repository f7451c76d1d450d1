"""What a plan is made for: sizes, how often each level fires, and what its firings keep."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from ..level import ramp_sum
from . import capabilities

#: Rows of a batch that are taken to fire together where that matters.
ROWS_TOGETHER = 8


@dataclass(frozen=True)
class Workload:
    """``length`` tokens of ``batch_size`` rows of ``channels`` through ``groups`` filters a layer.

    itemsize: bytes of a value of arithmetic, 4 or 8; spectra_itemsize: of half a complex entry of a
    filter spectrum; ring_itemsize: of a slot; filters_itemsize: of a tap. impls: on a GPU, what
    may do steps and prompts, as far as these are implementations, and fills.
    """

    length: int
    filter_length: int
    channels: int
    batch_size: int
    layers: int
    groups: int
    itemsize: int = 4
    spectra_itemsize: int = 4
    impls: tuple[str, ...] = capabilities.fills_on_gpus()
    ring_itemsize: int = 4
    filters_itemsize: int = 4

    @property
    def narrow(self) -> bool:
        """Whether the ring holds less than arithmetic has, and a row has an open block."""
        return self.ring_itemsize < self.itemsize

    @property
    def largest_fused(self) -> int:
        """Largest block of a fill that is one launch on a GPU."""
        return max(capabilities.of(name).largest_fused for name in self.impls)

    @property
    def layer_channels(self) -> int:
        """Channels of a layer over all batch rows."""
        return self.batch_size * self.channels

    @property
    def all_channels(self) -> int:
        """Channels over all layers and batch rows."""
        return self.layers * self.layer_channels

    @property
    def rows_per_filter(self) -> float:
        """Channels over all batch rows that read one filter row."""
        return self.layer_channels / self.groups

    @property
    def makings(self) -> float:
        """How often a firing of all rows makes spectra: they may be at positions of their own."""
        return max(self.batch_size / ROWS_TOGETHER, 1.0)

    def taps_per_step(self, block: int) -> float:
        """Taps that a channel's short-range step reads, averaged over a block."""
        return ramp_sum(block, self.filter_length) / block

    def n_spectra(self, block: int, radix: int) -> int:
        """Filter spectra of a level without slack; radix as in ``Plan.levels``."""
        return min(radix - 1, -(-self.filter_length // block))


class Firings(NamedTuple):
    """Firings of a level that cost the same.

    products: spectrum products of each, a mean where the ramp of a wide level is grouped.
    times: how often over the whole length. keeps: whether the newest input spectrum is stored.
    """

    products: float
    times: int
    keeps: bool


def level_firings(workload: Workload, block: int, radix: int) -> list[Firings]:
    """The firings of a level without slack over the whole length; the last have all its spectra.

    Sums of what is linear in the products are exact, as in ``Plan.flops_per_token``.
    """
    groups, rest = divmod(workload.length, block * radix)
    partial = max(-(-rest // block) - 1, 0)  # firings in the unfinished group
    spectra = workload.n_spectra(block, radix)

    def firings(products: float, times: int) -> Firings:
        # the last firing of a group leaves nothing for later ones
        keeps = spectra > 1 and (products < spectra or spectra < radix - 1)
        return Firings(products, times, keeps)

    found: list[Firings] = []
    edges = sorted({1, min(partial + 1, spectra), spectra, *range(1, spectra, -(-spectra // 8))})
    for first, after in itertools.pairwise(edges):
        times = (after - first) * (groups + (first <= partial))
        found.append(firings((first + after - 1) / 2, times))
    found.append(firings(spectra, groups * (radix - spectra) + max(partial - spectra + 1, 0)))
    return [same for same in found if same.times]
