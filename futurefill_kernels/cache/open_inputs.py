"""Gated inputs of prompts, which an open prompt's slots may hold."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..state.convolve import slots_inputs


class Slots:
    """The slots (R, tiles, room, W) of open prompts; larger ones with their inputs replace them."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Inputs(NamedTuple):
    """The first ``length`` positions of one of the prompts."""

    slots: Slots
    row: int
    length: int

    @property
    def taken(self) -> Tensor:
        """(1, tiles, length, W)."""
        return self.slots.tensor[self.row : self.row + 1, :, : self.length]


#: Gated inputs of a prompt: (D, P), or where an open one has them.
Past = Tensor | Inputs


def length_of(past: Past) -> int:
    """Their positions."""
    return past.length if isinstance(past, Inputs) else past.shape[1]


def channels_of(past: Past, channels: int) -> Tensor:
    """(D, P), a copy of those of an open prompt."""
    return slots_inputs(past.taken, channels)[0] if isinstance(past, Inputs) else past
