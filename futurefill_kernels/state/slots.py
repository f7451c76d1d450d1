"""Slots of rows copied, exchanged and cleared."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import IntEnum
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


class How(IntEnum):
    """What a move does to its rows, as csrc/infra/move_slots.h numbers it."""

    COPY = 0
    SWAP = 1
    CLEAR = 2  # the target; the source says nothing


class Move(NamedTuple):
    """One of the target array's rows becomes what one of the source array's was."""

    how: How
    source: int
    target: int


def move(sources: Sequence[Slots], targets: Sequence[Slots], moves: Sequence[Move]) -> None:
    """Every move of every pair of slots, in their order.

    Both of a pair hold as many bytes; those of a swap do not overlap. Compiled code does it where
    there is any: making the views takes longer than copying what a short stream has.
    """
    call = native.move_slots() if targets and targets[0].array.device.type == "cpu" else None
    if call is None:
        move_by_torch(sources, targets, moves)
        return
    ranges = array("q")
    for source, target in zip(sources, targets, strict=True):
        a, b = source.array, target.array
        layers, batch, tiles, slots = b.shape[:4]
        slot_a, slot_b = a.stride(3) * a.itemsize, b.stride(3) * b.itemsize
        ranges.extend(
            (
                *(a.data_ptr() + source.first * slot_a, b.data_ptr() + target.first * slot_b),
                *(a.shape[3] * slot_a, slots * slot_b, layers, batch, tiles, target.size * slot_b),
            )
        )
    rows = array("q", [number for one in moves for number in one])
    error = call(ranges.buffer_info()[0], len(targets), rows.buffer_info()[0], len(moves))
    if error:
        raise RuntimeError(error.decode())


def move_by_torch(
    sources: Sequence[Slots], targets: Sequence[Slots], moves: Sequence[Move]
) -> None:
    """The same in plain torch, on any device."""
    for source, target in zip(sources, targets, strict=True):
        for how, old, new in moves:
            to = target.of(new)
            if how is How.CLEAR:
                to.zero_()
                continue
            given = source.of(old).reshape(to.shape)
            if how is How.SWAP:
                aside = to.clone()
                to.copy_(given)
                given.copy_(aside)
            else:
                to.copy_(given)
