"""Slots of rows copied, exchanged and cleared."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from torch import Tensor

from .. import native


class Slots(NamedTuple):
    """Neighbouring slots of every row. array: (layers, B, tiles, slots, ...), contiguous."""

    array: Tensor
    first: int
    size: int

    def of(self, row: int | slice) -> Tensor:
        """Those of one row, or of all, as a view."""
        return self.array[:, row].narrow(-self.array.dim() + 3, self.first, self.size)

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row's."""
        layers, _, tiles = self.array.shape[:3]
        return layers * tiles * self.size * self.array.stride(3) * self.array.itemsize


#: What a move does to its rows, as csrc/infra/move_slots.h numbers it; CLEAR to the target alone.
COPY, SWAP, CLEAR = range(3)

#: (how, source, target): the row ``target`` of one array becomes what ``source`` of another was.
Move = tuple[int, int, int]


def move(sources: Sequence[Slots], targets: Sequence[Slots], moves: Sequence[Move]) -> None:
    """Every move of every pair of slots, in their order.

    Both of a pair hold as many bytes; those of a swap do not overlap. Compiled code does it where
    there is any: making the views takes longer than copying what a short stream has.
    """
    call = native.move_slots() if targets and targets[0].array.is_cpu else None
    if call is None:
        move_by_torch(sources, targets, moves)
        return
    ranges: list[int] = []
    for source, (b, first, size) in zip(sources, targets, strict=True):
        shape, strides, width = b.shape, b.stride(), b.itemsize
        tile, slot = strides[2] * width, strides[3] * width
        there = here = b.data_ptr() + first * slot
        tile_a = tile
        a, first_a, _ = source
        if a is not b or first_a != first:
            strides, width = a.stride(), a.itemsize
            tile_a = strides[2] * width
            here = a.data_ptr() + first_a * strides[3] * width
        ranges += (here, there, tile_a, tile, shape[0], shape[1], shape[2], size * slot)
    of_ranges, of_moves = array("q", ranges), array("q", chain.from_iterable(moves))
    error = call(
        of_ranges.buffer_info()[0], len(targets), of_moves.buffer_info()[0], len(moves)
    )
    if error:
        raise RuntimeError(error.decode())


def move_by_torch(
    sources: Sequence[Slots], targets: Sequence[Slots], moves: Sequence[Move]
) -> None:
    """The same in plain torch, on any device."""
    for source, target in zip(sources, targets, strict=True):
        for how, old, new in moves:
            to = target.of(new)
            if how == CLEAR:
                to.zero_()
                continue
            given = source.of(old).reshape(to.shape)
            if how == SWAP:
                aside = to.clone()
                to.copy_(given)
                given.copy_(aside)
            else:
                to.copy_(given)
