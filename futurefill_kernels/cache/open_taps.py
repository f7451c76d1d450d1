"""Spectra of a layer's filters for prompts that come in many calls."""

from __future__ import annotations

import torch
from torch import Tensor

from ..planning.memory import check_room_for
from ..state.prompt_blocks import new_spectra, write_spectrum

#: Spectra of a block that take more bytes than this are kept only from their second use on: most
#: prompts need that of their longest block once, and it takes as much memory as their inputs and
#: outputs. On a CPU less costs more to make again than to keep; a GPU's memory is dearer.
_KEPT_AT_ONCE = 32 << 20


class Taps:
    """Filters of a layer, and the spectra of their beginnings that its open prompts share.

    taps: (G, L). dtype: of the spectra's arithmetic, default theirs.
    """

    def __init__(self, taps: Tensor, dtype: torch.dtype | None = None) -> None:
        self.taps, self.dtype = taps, dtype or taps.dtype
        self._spectra: dict[tuple[int, int], Tensor] = {}  # by block and the first k
        self._needed: set[int] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of the spectra."""
        return sum(x.nbytes for x in self._spectra.values())

    def spectra(self, channels: int, block: int, first: int, count: int) -> Tensor:
        """At least ``count`` of a block from k = ``first`` on, (tiles, n, values)."""
        found = self._spectra.get((block, first))
        if found is not None and found.shape[1] >= count:
            return found
        room = 1 << (count - 1).bit_length()
        check_room_for("spectra of an open prompt", 8 * block * room * channels, self.taps.device)
        made = new_spectra(self.taps, channels, block, room, self.dtype)
        known = 0 if found is None else found.shape[1]
        if found is not None:
            made[:, :known] = found
        for k in range(known, room):
            write_spectrum(self.taps, made[:, k], channels, block, first + k, self.dtype)
        self._spectra[block, first] = made
        return made

    def pair(self, channels: int, block: int) -> Tensor | None:
        """Of a block that of k = 1; None where it is needed for the first time and large, or on a
        GPU.
        """
        large = self.taps.device.type != "cpu" or 8 * block * channels > _KEPT_AT_ONCE
        if large and block not in self._needed:
            self._needed.add(block)
            return None
        return self.spectra(channels, block, 1, 1)

    def free(self) -> None:
        """No prompt is open: the spectra go."""
        self._spectra, self._needed = {}, set()
