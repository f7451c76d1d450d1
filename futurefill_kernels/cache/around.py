"""Of an endless stream what lies around each row's position: all that it still needs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..plan import Plan


def depth_of(plan: Plan) -> int:
    """How many inputs before a position, or pending outputs behind it, a stream needs.

    Every spectrum of the largest level is of a finished block; the block that the position is in
    comes on top.
    """
    last = plan.levels[-1:]
    return sum(level.block * (level.n_spectra + 1) for level in last) or plan.base


def around(slots: Tensor, places: Sequence[int], depth: int) -> tuple[Tensor, Tensor]:
    """Inputs before each row's place, and pending outputs from it on; zero where there are none.

    slots: (layers, B, D, slots). Returns two of (layers, B, D, depth), the newest input last.
    """
    inputs, pending = (slots.new_zeros(*slots.shape[:3], depth) for _ in range(2))
    for row, place in enumerate(places):
        before, after = slots[:, row, :, max(place - depth, 0) : place], slots[:, row, :, place:]
        inputs[:, row, :, depth - before.shape[-1] :] = before
        count = min(depth, after.shape[-1])
        pending[:, row, :, :count] = after[..., :count]
    return inputs, pending


def at_places(
    inputs: Tensor, pending: Tensor, places: Sequence[int], slots: int
) -> tuple[Tensor, Tensor]:
    """What ``around`` returned, where it was: two of (layers, B, D, slots), the rest zero."""
    depth = inputs.shape[-1]
    before, after = (inputs.new_zeros(*inputs.shape[:3], slots) for _ in range(2))
    for row, place in enumerate(places):
        count = min(place, depth)
        before[:, row, :, place - count : place] = inputs[:, row, :, depth - count :]
        count = min(depth, slots - place)
        after[:, row, :, place : place + count] = pending[:, row, :, :count]
    return before, after
