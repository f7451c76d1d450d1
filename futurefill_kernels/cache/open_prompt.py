"""A prompt that comes in many calls, as a stream of its own whose length nobody knows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..planning.memory import check_room_for
from ..state.convolve import block_conv, block_spectrum, fast_conv_range

#: Inputs up to this many are convolved again rather than by a level of their own.
_BASE = 64
#: Most positions that one convolution does; further ones follow it.
_LARGEST_PIECE = 4096


class Taps:
    """Filters of a layer, and the spectra of their beginnings that its open prompts share.

    taps: (G, L).
    """

    def __init__(self, taps: Tensor) -> None:
        self.taps = taps
        self._spectra: dict[tuple[int, int], Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the spectra."""
        return sum(x.nbytes for x in self._spectra.values())

    def conv(self, x: Tensor, block: int, k: int, n: int) -> Tensor:
        """What inputs (D, P <= block) add to n outputs, k blocks after their first -> (D, n)."""
        if (block, k) not in self._spectra:
            check_room_for("a spectrum of an open prompt", 8 * block * len(x), x.device)
            self._spectra[block, k] = block_spectrum(self.taps, len(x), block, k)
        return block_conv(x[None], self._spectra[block, k], block, k, n)[0]

    def free(self) -> None:
        """No prompt is open: the spectra go."""
        self._spectra = {}


class OpenPrompt:
    """One row's gated inputs of one layer, with what they add to the positions that follow.

    held: (D, P), those so far; never written again, so whoever holds it can go back to it.

    Positions count from the end of the first call. What came before adds to all of the first ``R``
    at once. At a multiple of the largest power of two ``T`` the ``T`` inputs before it add to the
    ``T`` positions after it (docs/algorithm.md, equation 3, all radices 2); at ``R`` everything so
    far adds to the next ``R``, and ``R`` doubles. Time O(P log^2 P) for any lengths of calls. It
    holds 4 bytes for an input, with room for at most twice as many, and 4 for each of at most ``P``
    pending outputs; spectra, shared by rows, take 8 for a tap: at most 20 bytes a position.
    """

    def __init__(self, held: Tensor, taps: Taps) -> None:
        self.held = self._inputs = held
        self._taps = taps
        self._start, self._position, self._fired = held.shape[1], 0, 0
        self._room = _BASE
        while self._room * 2 <= self._start:
            self._room *= 2
        self._grow(self._room)

    @property
    def nbytes(self) -> int:
        """Bytes of inputs, with their room, and pending outputs."""
        return self._inputs.nbytes + self._pending.nbytes

    def more(self, x: Tensor) -> Tensor:
        """Outputs of the next positions. x: (D, n) gated inputs, finite -> (D, n)."""
        y = torch.empty_like(x)
        begin = 0
        while begin < x.shape[1]:
            p = self._position
            self._fire(p)
            since = p % _BASE  # the inputs before are convolved again
            n = min(self._piece(p, x.shape[1] - begin), self._room - p)
            at = self._start + p
            self._inputs[:, at : at + n] = x[:, begin : begin + n]
            recent = self._inputs[:, at - since : at + n]
            found = self._taps.conv(recent, max(n, _BASE), 0, since + n)[:, since:]
            y[:, begin : begin + n] = found.add_(self._pending_at(p, n))
            self._position, begin = p + n, begin + n
        self.held = self._inputs[:, : self._start + self._position]
        return y

    def _piece(self, p: int, left: int) -> int:
        """Positions from p on that one convolution does: a whole block that p begins, if it can."""
        if p % _BASE or left < _BASE:
            return min(left, _BASE - p % _BASE)
        size = min(1 << left.bit_length() - 1, _LARGEST_PIECE)
        return min(size, p & -p) if p else size

    def _pending_at(self, p: int, n: int) -> Tensor:
        return self._pending[:, p - self._first : p - self._first + n]

    def _fire(self, p: int) -> None:
        """What is due at p and has not been done."""
        if p == self._fired or p % _BASE:
            return
        if p == self._room:
            self._grow(2 * self._room)
        else:
            block, at = p & -p, self._start + p
            filled = self._taps.conv(self._inputs[:, at - block : at], block, 1, block)
            self._pending_at(p, block).add_(filled)
        self._fired = p

    def _grow(self, room: int) -> None:
        """Room for more; what all inputs so far add to it."""
        p, so_far = self._position, self._start + self._position
        inputs = self._inputs[:, :so_far]
        channels, new = inputs.shape[0], room - p
        nbytes = (self._start + room + new) * channels * inputs.element_size()
        check_room_for("an open prompt", nbytes, inputs.device)
        self._pending = fast_conv_range(inputs[None], self._taps.taps, so_far, so_far + new)[0]
        grown = inputs.new_empty(channels, self._start + room)
        grown[:, :so_far] = inputs
        self._inputs, self._room, self._first = grown, room, p
