"""A prompt that comes in many calls, as a stream of its own whose length nobody knows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..planning.memory import check_room_for
from ..state.convolve import block_conv, block_spectrum

#: Inputs up to this many are convolved again rather than by a level of their own.
_BASE = 64
#: Most positions that one convolution does; further ones follow it.
_LARGEST_PIECE = 4096


class Taps:
    """Filters of a layer, and the spectra of their beginnings that its open prompts share.

    taps: (G, L). dtype: of the spectra, default theirs.
    """

    def __init__(self, taps: Tensor, dtype: torch.dtype | None = None) -> None:
        self.taps, self._dtype = taps, dtype or taps.dtype
        self._spectra: dict[tuple[int, int], Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the spectra."""
        return sum(x.nbytes for x in self._spectra.values())

    def conv(self, x: Tensor, block: int, k: int, n: int) -> Tensor:
        """What inputs (D, P <= block) add to n outputs, k blocks after their first -> (D, n)."""
        if (block, k) not in self._spectra:
            check_room_for("a spectrum of an open prompt", 8 * block * len(x), x.device)
            taps = self.taps[:, : (k + 1) * block].to(self._dtype)
            self._spectra[block, k] = block_spectrum(taps, len(x), block, k)
        return block_conv(x[None], self._spectra[block, k], block, k, n)[0]

    def free(self) -> None:
        """No prompt is open: the spectra go."""
        self._spectra = {}


class OpenPrompt:
    """One row's gated inputs of one layer, with what they add to the positions that follow.

    held: (D, P), those so far; never written again, so whoever holds it can go back to it.

    As in a stream, one array holds inputs and, behind them, pending outputs. At a position that
    ``T``, a power of two, divides and ``2T`` does not, the ``T`` inputs before it add to the ``T``
    positions after it (docs/algorithm.md, equation 3, all radices 2); where no room is left, that
    is a block as long as the prompt, and the room doubles. Time O(P log^2 P) for any lengths of
    calls. The array takes at most 8 bytes a position and channel, spectra, which rows share, 16.
    """

    def __init__(self, held: Tensor, taps: Taps) -> None:
        self._taps, self._position = taps, held.shape[1]
        room = max(_BASE, 1 << (self._position - 1).bit_length())
        self._slots = self._allocate(held, room)
        self.held = self._slots[:, : self._position]
        # positions whose fills reach beyond: of 22 these are 16, 20 and 22
        due, base = 0, self._position // _BASE
        for bit in reversed(range(base.bit_length())):
            if base >> bit & 1:
                due += _BASE << bit
                self._fill(due)
        self._filled = due

    @property
    def nbytes(self) -> int:
        """Bytes of inputs and pending outputs."""
        return self._slots.nbytes

    def more(self, x: Tensor) -> Tensor:
        """Outputs of the next positions. x: (D, n) gated inputs, finite -> (D, n)."""
        y = torch.empty_like(x)
        begin = 0
        while begin < x.shape[1]:
            p = self._position
            if p % _BASE == 0 and p != self._filled:
                self._fill(p)
            since = p % _BASE  # the inputs before are convolved again
            n = self._piece(p, x.shape[1] - begin)
            slots = self._slots[:, p : p + n]
            here = y[:, begin : begin + n]
            here.copy_(slots)
            slots.copy_(x[:, begin : begin + n])
            recent = self._slots[:, p - since : p + n]
            here += self._taps.conv(recent, max(n, _BASE), 0, since + n)[:, since:]
            self._position, begin = p + n, begin + n
        self.held = self._slots[:, : self._position]
        return y

    def _piece(self, p: int, left: int) -> int:
        """Positions from p on that one convolution does: a whole block that p begins, if it can."""
        if p % _BASE or left < _BASE:
            return min(left, _BASE - p % _BASE)
        return min(1 << left.bit_length() - 1, _LARGEST_PIECE, p & -p)

    def _fill(self, p: int) -> None:
        """What is due at p."""
        block = p & -p
        if p == self._slots.shape[1]:
            self._slots = self._allocate(self._slots, 2 * p)
        filled = self._taps.conv(self._slots[:, p - block : p], block, 1, block)
        begin = max(p, self._position)  # slots before it hold inputs
        self._slots[:, begin : p + block] += filled[:, begin - p :]
        self._filled = p

    def _allocate(self, inputs: Tensor, room: int) -> Tensor:
        """Inputs so far, and pending outputs that are zero."""
        channels, count = inputs.shape
        check_room_for("an open prompt", channels * room * inputs.element_size(), inputs.device)
        slots = inputs.new_empty(channels, room)
        slots[:, :count] = inputs
        slots[:, count:] = 0
        return slots
