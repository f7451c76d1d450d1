"""A prompt that comes in many calls, as a stream of its own whose length nobody knows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..planning.memory import check_room_for
from ..state.convolve import slots_inputs
from ..state.prompt_blocks import (
    add_block,
    add_fill,
    new_kept,
    new_slots,
    new_spectra,
    write_inputs,
    write_spectrum,
)

#: Block sizes of the levels of radix 8, whose transforms are kept until a group's end; above them
#: are levels of radix 2.
_BLOCKS = (64, 512)
_RADIX = 8
_PAIRS_FROM = _BLOCKS[-1] * _RADIX
#: So many positions in a block of the second level are one transform of it; fewer are blocks of the
#: first.
_MANY = 3 * _BLOCKS[0]


class Slots:
    """The slots (tiles, room, W) of an open prompt; larger ones with its inputs replace them."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Inputs(NamedTuple):
    """The first ``length`` positions of an open prompt."""

    slots: Slots
    length: int

    @property
    def taken(self) -> Tensor:
        """(tiles, length, W)."""
        return self.slots.tensor[:, : self.length]


#: Gated inputs of a prompt: (D, P), or where an open one has them.
Past = Tensor | Inputs


def length_of(past: Past) -> int:
    """Their positions."""
    return past.length if isinstance(past, Inputs) else past.shape[1]


def channels_of(past: Past, channels: int) -> Tensor:
    """(D, P), a copy of those of an open prompt."""
    return slots_inputs(past.taken, channels) if isinstance(past, Inputs) else past


class Taps:
    """Filters of a layer, and the spectra of their beginnings that its open prompts share.

    taps: (G, L). dtype: of the spectra's arithmetic, default theirs.
    """

    def __init__(self, taps: Tensor, dtype: torch.dtype | None = None) -> None:
        self.taps, self.dtype = taps, dtype or taps.dtype
        self._spectra: dict[int, Tensor] = {}  # by block

    @property
    def nbytes(self) -> int:
        """Bytes of the spectra."""
        return sum(x.nbytes for x in self._spectra.values())

    def spectra(self, channels: int, block: int, count: int) -> Tensor:
        """At least ``count`` of a block, (tiles, n, values): from k = 0 on, of levels of radix 2
        that of k = 1.
        """
        found = self._spectra.get(block)
        if found is not None and found.shape[1] >= count:
            return found
        room, first = min(1 << (count - 1).bit_length(), _RADIX), 0 if block in _BLOCKS else 1
        check_room_for("spectra of an open prompt", 8 * block * room * channels, self.taps.device)
        made = new_spectra(self.taps, channels, block, room, self.dtype)
        known = 0 if found is None else found.shape[1]
        if found is not None:
            made[:, :known] = found
        for k in range(known, room):
            write_spectrum(self.taps, made[:, k], channels, block, first + k, self.dtype)
        self._spectra[block] = made
        return made

    def free(self) -> None:
        """No prompt is open: the spectra go."""
        self._spectra = {}


class _Group:
    """Of a level of radix 8 the transforms of the blocks of the group that the prompt is in.

    known: how many.
    """

    def __init__(self) -> None:
        self.known = 0
        self._kept: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the transforms."""
        return 0 if self._kept is None else self._kept.nbytes

    def kept(self, spectra: Tensor, channels: int, count: int) -> Tensor:
        """Room for ``count`` of them, those that are known inside."""
        found = self._kept
        if found is None or found.shape[1] < count:
            room = min(1 << (count - 1).bit_length(), _RADIX - 1)
            nbytes = room * channels * spectra.shape[2] * spectra.element_size()
            check_room_for("an open prompt", nbytes, spectra.device)
            self._kept = new_kept(spectra, channels, room)
            if found is not None:
                self._kept[:, : found.shape[1]] = found
        assert self._kept is not None
        return self._kept


class OpenPrompt:
    """One row's gated inputs of one layer, with what they add to the positions that follow.

    held: those so far; never written again, so whoever holds them can go back to them.

    As in a stream, one array holds inputs and, behind them, pending outputs. Two levels of radix 8
    keep the transforms of a group's blocks; a block that comes whole gets what the group's blocks
    add to it by the inverse that it needs itself (docs/algorithm.md, equation 3). Above them are
    levels of radix 2: the ``T`` inputs before an end of ``T`` add to the ``T`` positions after it;
    where no room is left, that is a block as long as the prompt, and the room doubles. Time
    O(P log^2 P) for any lengths of calls. The array takes at most 8 bytes a position and channel,
    spectra, which rows share, 16, and those of a group as much as its inputs.
    """

    def __init__(self, held: Past, taps: Taps, channels: int) -> None:
        self._taps, self._channels = taps, channels
        inputs = channels_of(held, channels)
        self._position = inputs.shape[1]
        self._groups = {block: _Group() for block in _BLOCKS}
        # the slots of the block of `_inside` that the position is in hold all that inputs before
        # that block add, where the position is not its beginning or `_filled`
        self._inside, self._filled = _BLOCKS[0], 0
        room = max(_BLOCKS[-1], 1 << (self._position - 1).bit_length())
        self._slots = Slots(self._new_slots(room))
        self._replay(inputs)
        self._sums = torch.zeros_like(self._slots.tensor[:, 0, 0])
        self.held = Inputs(self._slots, self._position)

    @property
    def kept_nbytes(self) -> int:
        """Bytes of kept transforms and sums."""
        return sum(group.nbytes for group in self._groups.values()) + self._sums.nbytes

    def more(self, x: Tensor, y: Tensor) -> bool:
        """Outputs y (D, n) of the next gated inputs x (D, n).

        Returns whether all outputs are finite; if not, this stream is of no further use.
        """
        begin, length = 0, x.shape[1]
        while begin < length:
            block = self._next_block(length - begin)
            n = min(length - begin, block - self._position % block)
            here = slice(begin, begin + n)
            given = (x, y) if n == length else (x[:, here], y[:, here])
            self._add(*given, block)
            begin += n
        self.held = Inputs(self._slots, self._position)
        return math.isfinite(sum(self._sums.tolist()))

    def future(self, n: int) -> Tensor | None:
        """What the inputs so far add to the next n positions (D, n), after which the stream is of
        no further use; None where a convolution of them all is cheaper, or needed.
        """
        p = self._position
        ends = range(-(-p // _PAIRS_FROM) * _PAIRS_FROM, p + n, _PAIRS_FROM)
        if n + sum(end & -end for end in ends) >= p:
            return None
        y = self._slots.tensor.new_empty(self._channels, n)
        return y if self.more(torch.zeros_like(y), y) else None

    def _next_block(self, left: int) -> int:
        """The block size in which the next of ``left`` positions are added."""
        p, (small, large) = self._position, _BLOCKS
        if p % self._inside == 0:
            self._inside = large if min(left, large - p % large) > _MANY else small
        return self._inside

    def _add(self, x: Tensor, y: Tensor, block: int) -> None:
        """Outputs y (D, n) of inputs x (D, n) inside one block."""
        p, n = self._position, x.shape[1]
        if p == self._slots.tensor.shape[1]:
            self._double()
        group, newest, blocks = self._groups[block], 0, 1
        if p % block == 0:
            newest = p // block % _RADIX
            if newest == 0:
                group.known = 0
            if n == block and newest and group.known == newest and p != self._filled:
                blocks = newest + 1
            elif p and p != self._filled:
                self._fill(p)
        spectra = self._taps.spectra(self._channels, block, blocks)
        if n == block:
            kept = group.kept(spectra, self._channels, min(newest + 1, _RADIX - 1))
            group.known = newest + 1
        else:
            kept = spectra[:, :0]
        self._position = p + n
        add_block(
            x, y, self._slots.tensor, spectra, kept, self._sums, p, block, newest, blocks
        )  # fmt: skip

    def _fill(self, p: int) -> None:
        """What is due at p, a multiple of the smallest block."""
        block = _BLOCKS[0] if p % _BLOCKS[1] else _BLOCKS[1] if p % _PAIRS_FROM else p & -p
        if block in self._groups:
            slot, group = p // block % _RADIX, self._groups[block]
            spectra = self._taps.spectra(self._channels, block, slot + 1)[:, 1:]
            kept, group.known = group.kept(spectra, self._channels, slot), slot
        else:
            slot, spectra = 1, self._taps.spectra(self._channels, block, 1)
            kept = spectra[:, :0]
        add_fill(self._slots.tensor, spectra, kept, self._channels, p, block, slot)
        self._filled = p

    def _replay(self, inputs: Tensor) -> None:
        """Slots and groups after inputs (D, P)."""
        p, end = 0, inputs.shape[1]
        pairs = end // _PAIRS_FROM
        steps = [_PAIRS_FROM << bit for bit in range(pairs.bit_length()) if pairs >> bit & 1][::-1]
        for block in reversed(_BLOCKS):
            steps += [block] * ((end - sum(steps)) // block)
        for block in steps:
            write_inputs(self._slots.tensor, inputs[:, p : p + block], p)
            p += block
            if p < end:
                self._fill(p)
        write_inputs(self._slots.tensor, inputs[:, p:], p)

    def _new_slots(self, room: int) -> Tensor:
        taps, dtype = self._taps.taps, self._taps.dtype
        check_room_for("an open prompt", self._channels * room * dtype.itemsize, taps.device)
        return new_slots(self._channels, room, dtype, taps.device)

    def _double(self) -> None:
        """As many slots more."""
        old = self._slots.tensor
        here = old.shape[1]
        slots = self._new_slots(2 * here)
        slots[:, :here] = old
        self._slots.tensor = slots
