"""Prompts that come in many calls, as a stream of its own whose length nobody knows."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..planning.memory import check_room_for
from ..planning.prompt_levels import SMALLEST, prompt_levels
from ..state.prompt_blocks import (
    add_block,
    add_fill,
    add_first_fill,
    new_kept,
    new_slots,
    write_inputs,
)
from .open_inputs import Inputs, Past, Slots, channels_of
from .open_taps import Taps


class _Group:
    """Of a level with kept transforms those of the blocks of the group that the prompt is in.

    radix: blocks of a group. known: how many are there.
    """

    def __init__(self, radix: int) -> None:
        self.known = 0
        self._radix = radix
        self._kept: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the transforms."""
        return 0 if self._kept is None else self._kept.nbytes

    def kept(self, rows: int, spectra: Tensor, channels: int, count: int) -> Tensor:
        """Room for ``count`` of them, those that are known inside."""
        found = self._kept
        if found is None or found.shape[2] < count:
            room = min(1 << (count - 1).bit_length(), self._radix - 1)
            nbytes = rows * room * channels * spectra.shape[2] * spectra.element_size()
            check_room_for("an open prompt", nbytes, spectra.device)
            self._kept = new_kept(rows, spectra, channels, room)
            if found is not None:
                self._kept[:, :, : found.shape[2]] = found
        assert self._kept is not None
        return self._kept

    def of_row(self, row: int) -> _Group:
        """The same of one of its prompts."""
        other = copy.copy(self)
        if self._kept is not None:
            other._kept = self._kept[row : row + 1]
        return other


class OpenPrompt:
    """Rows' gated inputs of one layer, of one length, with what they add to the positions that
    follow.

    held: those so far, by row; never written again, so whoever holds them can go back to them.

    As in a stream, one array holds inputs and, behind them, pending outputs. Levels with kept
    transforms have those of a group's blocks; a block that comes whole gets what the group's blocks
    add to it by the inverse that it needs itself (docs/algorithm.md, equation 3). Above them the
    ``T`` inputs before an end of ``T`` add to the ``T`` positions after it; where no room is left,
    that is a block as long as the prompt, and the room doubles. A call that has a whole such block
    is convolved with itself at once. Time O(P log^2 P) for any lengths of calls. The array takes at
    most 8 bytes a position and channel, spectra, which rows share, 16, and on a CPU those of a
    group at most 68 KB a channel.
    """

    def __init__(self, held: Sequence[Past], taps: Taps, channels: int) -> None:
        self._taps, self._channels, self._rows = taps, channels, len(held)
        self._levels = prompt_levels(taps.taps.device)
        inputs = [channels_of(x, channels) for x in held]
        self._position = inputs[0].shape[1]
        self._groups = {block: _Group(self._levels.radix) for block in self._levels.kept}
        # the slots of the block of `_inside` that the position is in hold all that inputs before
        # that block add, where the position is not its beginning or `_filled`
        self._inside, self._filled = SMALLEST, 0
        room = max(*self._levels.kept, SMALLEST, 1 << (self._position - 1).bit_length())
        self._slots = Slots(self._new_slots(room))
        self._replay(inputs)
        self._sums = torch.zeros_like(self._slots.tensor[:, :, 0, 0])
        self._hold()

    @property
    def kept_nbytes(self) -> int:
        """Bytes of kept transforms and sums."""
        return sum(group.nbytes for group in self._groups.values()) + self._sums.nbytes

    def apart(self) -> list[OpenPrompt]:
        """A stream of each row, after which this one is of no further use."""
        if self._rows == 1:
            return [self]
        return [self._of_row(row) for row in range(self._rows)]

    def more(self, x: Tensor, y: Tensor) -> list[bool]:
        """Outputs y (R, D, n) of the next gated inputs x (R, D, n).

        Returns for each row whether all outputs are finite; if not, its stream is of no further
        use.
        """
        begin, length = 0, x.shape[2]
        while begin < length:
            block = self._next_block(length - begin, length)
            n = min(length - begin, block - self._position % block)
            here = slice(begin, begin + n)
            given = (x, y) if n == length else (x[..., here], y[..., here])
            self._add(*given, block)
            begin += n
        self._hold()
        return [math.isfinite(sum(sums)) for sums in self._sums.tolist()]

    def future(self, n: int) -> Tensor | None:
        """What the inputs so far add to the next n positions (R, D, n), after which the stream is
        of no further use; None where a convolution of them all is cheaper, or needed.
        """
        p, first = self._position, self._levels.pairs_from
        ends = range(-(-p // first) * first, p + n, first)
        if n + sum(end & -end for end in ends) >= p:
            return None
        y = self._slots.tensor.new_empty(self._rows, self._channels, n)
        return y if all(self.more(torch.zeros_like(y), y)) else None

    def _hold(self) -> None:
        self.held = [Inputs(self._slots, row, self._position) for row in range(self._rows)]

    def _of_row(self, row: int) -> OpenPrompt:
        one = copy.copy(self)
        one._rows, one._slots = 1, Slots(self._slots.tensor[row : row + 1])
        one._sums = self._sums[row : row + 1]
        one._groups = {block: group.of_row(row) for block, group in self._groups.items()}
        one.held = [self.held[row]]  # whoever holds it finds the stream again
        return one

    def _next_block(self, left: int, call: int) -> int:
        """The block size in which the next of ``left`` positions of a call are added."""
        p, levels = self._position, self._levels
        if p % self._inside:
            return self._inside
        whole = 1 << left.bit_length() - 1
        if p:
            whole = min(whole, p & -p)
        if not levels.kept:
            self._inside = max(levels.first_block(p, call, self._rows * self._channels), whole)
        elif p and whole >= levels.pairs_from:
            self._inside = whole
        else:
            small, large = levels.kept
            # so many positions of a larger block cost less in it
            self._inside = large if min(left, large - p % large) > 3 * small else small
        return self._inside

    def _add(self, x: Tensor, y: Tensor, block: int) -> None:
        """Outputs y (R, D, n) of inputs x (R, D, n) inside one block."""
        p, n = self._position, x.shape[2]
        if p == self._slots.tensor.shape[2]:
            self._double()
        group, newest, blocks = self._groups.get(block), 0, 1
        if p % block == 0:
            if group is not None:
                newest = p // block % self._levels.radix
                if newest == 0:
                    group.known = 0
                if n == block and newest and group.known == newest and p != self._filled:
                    blocks = newest + 1
            if blocks == 1 and p and p != self._filled:
                self._fill(p)
        spectra = self._taps.spectra(self._channels, block, 0, blocks)
        if n == block and group is not None:
            kept = self._kept(group, spectra, min(newest + 1, self._levels.radix - 1))
            group.known = newest + 1
        else:
            kept = self._nothing(spectra)
        self._position = p + n
        add_block(
            x, y, self._slots.tensor, spectra, kept, self._sums, p, block, newest, blocks
        )  # fmt: skip

    def _fill(self, p: int) -> None:
        """What is due at p, a multiple of the smallest block."""
        levels, slots = self._levels, self._slots.tensor
        block = p & -p
        if block < levels.pairs_from:
            block = max(kept for kept in levels.kept if p % kept == 0)
            slot, group = p // block % levels.radix, self._groups[block]
            spectra = self._taps.spectra(self._channels, block, 0, slot + 1)[:, 1:]
            kept, group.known = self._kept(group, spectra, slot), slot
            add_fill(slots, spectra, kept, self._channels, p, block, slot)
        elif (pair := self._pair(p, block)) is not None:
            add_fill(slots, pair, self._nothing(pair), self._channels, p, block, 1)
        else:
            add_first_fill(slots, self._taps.taps, self._channels, block, self._taps.dtype)
        self._filled = p

    def _pair(self, p: int, block: int) -> Tensor | None:
        """The spectrum of a block above the kept ones; None where it is the first and need not be
        kept.
        """
        if p > block:
            return self._taps.spectra(self._channels, block, 1, 1)
        return self._taps.pair(self._channels, block)

    def _kept(self, group: _Group, spectra: Tensor, count: int) -> Tensor:
        return group.kept(self._rows, spectra, self._channels, count)

    def _nothing(self, spectra: Tensor) -> Tensor:
        """No kept transforms."""
        tiles = self._slots.tensor.shape[1]
        return spectra.new_empty(self._rows, tiles, 0, spectra.shape[2])

    def _replay(self, inputs: Sequence[Tensor]) -> None:
        """Slots and groups after inputs (D, P) of every row."""
        p, end, first = 0, self._position, self._levels.pairs_from
        pairs = end // first
        steps = [first << bit for bit in range(pairs.bit_length()) if pairs >> bit & 1][::-1]
        for block in reversed(self._levels.kept):
            steps += [block] * ((end - sum(steps)) // block)
        for block in [*steps, end - sum(steps)]:
            for row, x in enumerate(inputs):
                write_inputs(self._slots.tensor[row], x[:, p : p + block], p)
            p += block
            if p < end:
                self._fill(p)

    def _new_slots(self, room: int) -> Tensor:
        taps, dtype = self._taps.taps, self._taps.dtype
        nbytes = self._rows * self._channels * room * dtype.itemsize
        check_room_for("an open prompt", nbytes, taps.device)
        return new_slots(self._rows, self._channels, room, dtype, taps.device)

    def _double(self) -> None:
        """As many slots more."""
        old = self._slots.tensor
        here = old.shape[2]
        slots = self._new_slots(2 * here)
        slots[:, :, :here] = old
        self._slots.tensor = slots
