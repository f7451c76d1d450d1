"""A prompt that comes in many calls, as a stream of its own whose length nobody knows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..planning.memory import check_room_for
from ..state.convolve import block_conv, block_spectrum, blocks_conv, room_for_blocks

#: Positions of a block, and blocks of a group, whose transforms are kept until its end.
_BLOCK, _GROUP = 512, 8
#: Smallest transform of a part of a block.
_SMALLEST = 64


class Taps:
    """Filters of a layer, and the spectra of their beginnings that its open prompts share.

    taps: (G, L). dtype: of the spectra, default theirs.
    """

    def __init__(self, taps: Tensor, dtype: torch.dtype | None = None) -> None:
        self.taps, self._dtype = taps, dtype or taps.dtype
        self._spectra: dict[tuple[int, int], Tensor] = {}
        self._of_blocks: Tensor | None = None  # k = 0, 1, ... of _BLOCK

    @property
    def nbytes(self) -> int:
        """Bytes of the spectra."""
        blocks = 0 if self._of_blocks is None else self._of_blocks.nbytes
        return sum(x.nbytes for x in self._spectra.values()) + blocks

    def conv(self, x: Tensor, block: int, k: int, n: int) -> Tensor:
        """What inputs (D, P <= block) add to n outputs, k blocks after their first -> (D, n)."""
        if (block, k) not in self._spectra:
            self._spectra[block, k] = self._spectrum(len(x), block, k)
        return block_conv(x[None], self._spectra[block, k], block, n)[0]

    def of_blocks(self, channels: int, count: int) -> Tensor:
        """Spectra for k = 0 .. count - 1 at least, one behind the other, of blocks of _BLOCK."""
        found = self._of_blocks
        if found is None or len(found) < count:
            room = min(1 << (count - 1).bit_length(), _GROUP)
            old = [] if found is None else list(found)
            more = [self._spectrum(channels, _BLOCK, k) for k in range(len(old), room)]
            found = self._of_blocks = torch.stack(old + more)
        return found

    def free(self) -> None:
        """No prompt is open: the spectra go."""
        self._spectra, self._of_blocks = {}, None

    def _spectrum(self, channels: int, block: int, k: int) -> Tensor:
        check_room_for("a spectrum of an open prompt", 8 * block * channels, self.taps.device)
        begin = max(k - 1, 0) * block
        taps = self.taps[:, begin : (k + 1) * block].to(self._dtype)
        if not taps.shape[1]:  # behind the filters' end
            taps = taps.new_zeros(len(taps), 1)
        return block_spectrum(taps, channels, block, min(k, 1))


class OpenPrompt:
    """One row's gated inputs of one layer, with what they add to the positions that follow.

    held: (D, P), those so far; never written again, so whoever holds it can go back to it.

    As in a stream, one array holds inputs and, behind them, pending outputs. Inside a group of
    blocks the transforms of its blocks are kept, and a block's outputs are one inverse of their
    products with the filters' (docs/algorithm.md, equation 3). At an end of a group that ``T``,
    a power of two, divides and ``2T`` does not, the ``T`` inputs before it add to the ``T``
    positions after it; where no room is left, that is a block as long as the prompt, and the room
    doubles. Time O(P log^2 P) for any lengths of calls. The array takes at most 8 bytes a position
    and channel, spectra, which rows share, 16, and those of a group as much as its inputs.
    """

    def __init__(self, held: Tensor, taps: Taps) -> None:
        self._taps, self._position = taps, held.shape[1]
        self._slots = self._allocate(held, max(_BLOCK, 1 << (self._position - 1).bit_length()))
        self.held = self._slots[:, : self._position]
        self._kept: Tensor | None = None
        self._known = 0  # blocks of the group whose transforms are there
        # ends of groups whose fills reach beyond: of 22 groups these are 16, 20 and 22
        self._filled, groups = 0, self._position // (_BLOCK * _GROUP)
        for bit in reversed(range(groups.bit_length())):
            if groups >> bit & 1:
                self._fill(self._filled + (_BLOCK * _GROUP << bit))
        if self._position % _BLOCK:
            self._begin_block(self._position // _BLOCK * _BLOCK)

    @property
    def nbytes(self) -> int:
        """Bytes of inputs, pending outputs and kept transforms."""
        return self._slots.nbytes + (0 if self._kept is None else self._kept.nbytes)

    def more(self, x: Tensor) -> Tensor:
        """Outputs of the next positions. x: (D, n) gated inputs, finite -> (D, n)."""
        y = torch.empty_like(x)
        begin = 0
        while begin < x.shape[1]:
            since = self._position % _BLOCK
            n = min(x.shape[1] - begin, _BLOCK - since)
            given, here = x[:, begin : begin + n], y[:, begin : begin + n]
            if n == _BLOCK:
                self._whole_block(given, here)
            else:
                self._part_of_block(given, here, since)
            begin += n
        self.held = self._slots[:, : self._position]
        return y

    def _whole_block(self, x: Tensor, y: Tensor) -> None:
        """Outputs (D, _BLOCK) of a block that begins here, by one inverse transform."""
        p = self._position
        slot = self._begin_group(p)
        self._keep_missing(p, slot)
        slots = self._slots[:, p : p + _BLOCK]
        torch.add(slots, self._by_blocks(x, slot, 0, _BLOCK), out=y)
        slots.copy_(x)
        self._position = p + _BLOCK

    def _part_of_block(self, x: Tensor, y: Tensor, since: int) -> None:
        """Outputs (D, n) of positions inside a block of which ``since`` are there."""
        p, n = self._position, x.shape[1]
        if not since:
            self._begin_block(p)
        slots = self._slots[:, p : p + n]
        y.copy_(slots)
        slots.copy_(x)
        block = max(_SMALLEST, 1 << (since + n - 1).bit_length())
        recent = self._slots[:, p - since : p + n]
        y += self._taps.conv(recent, block, 0, since + n)[:, since:]
        self._position = p + n

    def _begin_block(self, p: int) -> None:
        """What the blocks before p in its group add to the block at p is in the slots."""
        slot = self._begin_group(p)
        if slot:
            self._keep_missing(p, slot - 1)
            filled = self._by_blocks(self._slots[:, p - _BLOCK : p], slot - 1, 1, _BLOCK)
            begin = max(p, self._position)  # slots before it hold inputs
            self._slots[:, begin : p + _BLOCK] += filled[:, begin - p :]

    def _keep_missing(self, p: int, slots: int) -> None:
        """Transforms of the first blocks of the group that p is in. slots: how many at least."""
        start = p // (_BLOCK * _GROUP) * _BLOCK * _GROUP
        for slot in range(self._known, slots):
            begin = start + slot * _BLOCK
            self._by_blocks(self._slots[:, begin : begin + _BLOCK], slot, 0, 0)

    def _begin_group(self, p: int) -> int:
        """Room for a block at p, and fills that are due there. Returns its place in its group."""
        if p == self._slots.shape[1]:
            self._slots = self._allocate(self._slots, 2 * p)
        slot = p // _BLOCK % _GROUP
        if slot == 0 and p != self._filled:
            self._fill(p)
            self._known = 0
        return slot

    def _by_blocks(self, x: Tensor, slot: int, shift: int, n: int) -> Tensor:
        """`blocks_conv` of inputs x (D, _BLOCK), the group's block ``slot`` -> (D, n)."""
        spectra = self._taps.of_blocks(len(x), slot + shift + 1)
        if self._kept is None or len(self._kept) <= slot:
            room = room_for_blocks(spectra, len(x), min(1 << slot.bit_length(), _GROUP))
            check_room_for("an open prompt", room.nbytes, room.device)
            if self._kept is not None:
                room[: len(self._kept)] = self._kept
            self._kept = room
        y = blocks_conv(x, spectra, self._kept, _BLOCK, slot, shift, n)
        self._known = slot + 1
        return y

    def _fill(self, p: int) -> None:
        """What is due at p, an end of a group."""
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
