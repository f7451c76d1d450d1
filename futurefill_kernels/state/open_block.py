"""The open block of a row: the ``T_0`` positions that it is in, where the ring holds less.

A ring of 16 bits holds inputs and what is pending behind a row's block. The slots of the block
itself are in ``StreamState.open_block``, in the dtype of arithmetic: pending outputs are rounded
once for each fill that adds to them before their block opens. Inputs are rounded when they come, so
that the block and the ring hold the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..plan import Plan
from .tensors import StreamState


def block_start(plan: Plan, place: int) -> int:
    """First position of the open block of a row at a place where nothing is due."""
    slots = plan.open_slots
    return min(place, plan.slots - 1) // slots * slots


def open_at(
    state: StreamState, rows: Sequence[int] | Tensor, start: int, layer: int | None
) -> None:
    """The block from ``start`` on is open: it has what the ring holds. layer: None for all."""
    layers = slice(None) if layer is None else slice(layer, layer + 1)
    index = torch.as_tensor(rows, dtype=torch.int64, device=state.ring.device)
    slots = state.ring[layers, index, :, start : start + state.plan.open_slots]
    state.open_block[layers, index, :, : slots.shape[-2]] = slots.to(state.dtype)


def store_inputs(state: StreamState, row: int, place: int, layer: int | None = None) -> None:
    """The inputs of the open block of a row at a place are in the ring too. layer: None for all."""
    layers = slice(None) if layer is None else slice(layer, layer + 1)
    start = block_start(state.plan, place)
    inputs = state.open_block[layers, row, :, : place - start]
    state.ring[layers, row, :, start:place] = inputs.to(state.ring.dtype)


def put_back_inputs(state: StreamState, row: int, place: int) -> None:
    """What ``store_inputs`` has written is in the open block again; asks for no memory."""
    start = block_start(state.plan, place)
    state.open_block[:, row, :, : place - start] = state.ring[:, row, :, start:place]


def turn(state: StreamState, rows: Sequence[int] | None, boundary: int) -> None:
    """Rows at a boundary of ``T_0``: the block before it goes to the ring, the next one opens.

    rows: None for all. Waits for no device.
    """
    base = state.plan.base
    for row in (slice(None),) if rows is None else rows:
        ring, block = state.ring[:, row], state.open_block[:, row]
        ring[..., boundary - base : boundary, :] = block
        slots = ring[..., boundary : boundary + base, :]
        block[..., : slots.shape[-2], :] = slots


def whole_slots(state: StreamState, places: Sequence[int]) -> Tensor:
    """(layers, B, tiles, N, lanes), inputs and pending outputs of rows between tokens.

    places: of every row. The ring itself where no block is open.
    """
    slots = state.ring[..., : state.length, :]
    if not state.narrow:
        return slots
    slots = slots.to(state.dtype)
    for row, place in enumerate(places):
        start = block_start(state.plan, place)
        here = slots[:, row, :, start : start + state.plan.open_slots]
        here.copy_(state.open_block[:, row, :, : here.shape[-2]])
    return slots
