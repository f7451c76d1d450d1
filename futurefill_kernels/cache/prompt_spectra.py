"""Filter spectra of prompts, kept for the next prompt that takes the same transform."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

from torch import Tensor

from ..planning.memory import check_room_for
from ..state.filters import FilterBank, KeepSpectrum, PromptSpectrum, share_prompt_spectrum
from ..state.lasting import lasting

#: Transforms of a layer whose spectra are kept; the one that was used longest ago goes first.
MOST = 2


class PromptSpectra:
    """What one cache keeps of a bank's filters: per layer the spectra that its prompts read last.

    Caches of one bank that keep the same spectrum have it once.
    """

    def __init__(self, bank: FilterBank) -> None:
        self._bank = bank
        self._kept: list[dict[Hashable, PromptSpectrum]] = [{} for _ in range(len(bank))]

    def clone(self, bank: FilterBank) -> PromptSpectra:
        """The same for a copy of the cache; with another bank nothing."""
        other = PromptSpectra(bank)
        if bank is self._bank:
            other._kept = [dict(kept) for kept in self._kept]
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(x.values.nbytes for kept in self._kept for x in kept.values())

    def of_layer(self, layer: int) -> KeepSpectrum:
        """How a layer's convolution finds its spectrum, or has it made and kept."""
        return partial(self._find, layer)

    def _find(
        self, layer: int, transform: Hashable, nbytes: int, make: Callable[[], Tensor]
    ) -> Tensor:
        kept = self._kept[layer]
        found = kept.pop(transform, None)
        if found is None:
            while len(kept) >= MOST:  # before more is made
                del kept[next(iter(kept))]
            check_room_for("the kept spectrum of a prompt", nbytes, self._bank.taps.device)
            found = share_prompt_spectrum(self._bank, layer, transform, lasting(make))
        kept[transform] = found  # the newest comes last
        return found.values
