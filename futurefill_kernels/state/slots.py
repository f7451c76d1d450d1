"""Slots of rows copied, exchanged and cleared."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .. import native


class SlotArray:
    """A tensor of slots (layers, B, tiles, slots, ...), contiguous, and where its bytes are: asking
    a tensor for that takes longer than moving what few slots hold.

    front: (layers, B, tiles). size: slots of a tile. tile, slot: bytes from one to the next.
    address: where there is one on the CPU. empty: what a cleared slot holds, 0 or the integer -1.
    """

    __slots__ = ("address", "empty", "front", "on_cpu", "size", "slot", "tensor", "tile")

    def __init__(self, tensor: Tensor, empty: int = 0) -> None:
        self.tensor, self.on_cpu, self.empty = tensor, tensor.is_cpu, empty
        self.address = tensor.data_ptr() if tensor.is_cpu else 0
        layers, batch, tiles, self.size = tensor.shape[:4]
        self.front = layers, batch, tiles
        self.tile, self.slot = (n * tensor.itemsize for n in tensor.stride()[2:4])

    def __reduce__(self) -> tuple[type[SlotArray], tuple[Tensor, int]]:
        return SlotArray, (self.tensor, self.empty)  # a copy's bytes are elsewhere

    @property
    def whole(self) -> Slots:
        """All slots."""
        return Slots(self, 0, self.size)


class Slots(NamedTuple):
    """Neighbouring slots of every row of an array."""

    array: SlotArray
    first: int
    size: int

    def of(self, row: int | slice) -> Tensor:
        """Those of one row, or of all, as a view."""
        tensor = self.array.tensor
        return tensor[:, row].narrow(-tensor.dim() + 3, self.first, self.size)

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row's."""
        layers, _, tiles = self.array.front
        return layers * tiles * self.size * self.array.slot


class SlotArrays(NamedTuple):
    """The tensors of a state by rows and slots; one that is not there has no slots, the last three
    have one.
    """

    ring: SlotArray
    open_block: SlotArray
    kept: SlotArray
    undo: SlotArray
    images: SlotArray
    prompt_fill: SlotArray
    work: SlotArray
    positions: SlotArray
    filled: SlotArray
    token_at: SlotArray


#: What a move does to its rows, as csrc/infra/move_slots.h numbers it; CLEAR to the target alone.
COPY, SWAP, CLEAR = range(3)

_WORD = 8  # bytes of an int64

#: (how, source, target): the row ``target`` of one array becomes what ``source`` of another was.
Move = tuple[int, int, int]


def move(sources: Sequence[Slots], targets: Sequence[Slots], moves: Sequence[Move]) -> None:
    """Every move of every pair of slots, in their order.

    Both of a pair hold as many bytes; those of a swap do not overlap. Compiled code does it where
    there is any: making the views takes longer than copying what a short stream has.
    """
    call = native.move_slots() if targets and targets[0].array.on_cpu else None
    if call is None:
        move_by_torch(sources, targets, moves)
        return
    numbers = packed_ranges(sources, targets)
    rows = len(numbers) * _WORD
    for each in moves:
        numbers += each
    packed = array("q", numbers)
    address = packed.buffer_info()[0]
    error = call(address, len(targets), address + rows, len(moves))
    if error:
        raise RuntimeError(error.decode())


def packed_ranges(sources: Sequence[Slots], targets: Sequence[Slots]) -> list[int]:
    """Of each pair of slots on the CPU the numbers of a csrc/infra/move_slots.h SlotRange."""
    numbers: list[int] = []
    for (a, first_a, _), (b, first, size) in zip(sources, targets, strict=True):
        here, there = a.address + first_a * a.slot, b.address + first * b.slot
        numbers += (here, there, a.tile, b.tile, *b.front, size * b.slot, b.empty & 0xFF)
    return numbers


def move_by_torch(
    sources: Sequence[Slots], targets: Sequence[Slots], moves: Sequence[Move]
) -> None:
    """The same in plain torch, on any device."""
    for source, target in zip(sources, targets, strict=True):
        if moves == [(CLEAR, row, row) for row in range(target.array.front[1])]:
            target.of(slice(None)).fill_(target.array.empty)
            continue
        for how, old, new in moves:
            to = target.of(new)
            if how == CLEAR:
                to.fill_(target.array.empty)
                continue
            given = source.of(old).reshape(to.shape)
            if how == SWAP:
                aside = to.clone()
                to.copy_(given)
                given.copy_(aside)
            else:
                to.copy_(given)
