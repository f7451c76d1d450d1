"""What happens to whole rows of a state: forgotten, reordered, taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..state.slots import CLEAR, Slots, move
from ..state.tensors import StreamState


def rewind(state: StreamState, rows: Sequence[int]) -> None:
    """Rows back to position 0; what they hold means nothing until it is written or forgotten."""
    move(state.books, state.books, [(CLEAR, row, row) for row in rows])


def forget(state: StreamState, used: Mapping[int, int]) -> None:
    """Nothing has come to rows at position 0. used: row -> slots that it may have used."""
    arrays = state.arrays
    for row, slots in used.items():
        here = [Slots(arrays.ring, 0, slots)]
        here += [x.whole for x in (arrays.open_block, arrays.prompt_fill) if x.size]
        move(here, here, [(CLEAR, row, row)])


def take_back(state: StreamState, rows: Sequence[int], positions: Sequence[int]) -> None:
    """Rows back to positions whose token some or all layers have begun, and nothing has followed.

    The pending outputs that the token's inputs overwrote come back, bit for bit.
    """
    device = state.ring.device
    index = torch.tensor(rows, dtype=torch.int64, device=device)
    at = torch.tensor(positions, dtype=torch.int64, device=device)
    begun = (state.token_at[:, index] == at) & (at < state.length)  # (layers, R)
    slot = at.clamp(max=state.length - 1)  # a full row has begun nothing
    slots = state.ring
    if state.narrow:
        slots, slot = state.open_block, slot % state.open_block.shape[-2]
    now = slots[:, index, :, slot].transpose(0, 1)  # (layers, R, tiles, lanes)
    before = state.undo[:, index, :, at % state.undo.shape[3]].transpose(0, 1)
    pending = torch.where(begun[..., None, None], before, now)
    slots[:, index, :, slot] = pending.transpose(0, 1)
    state.positions[index] = at
    state.token_at[:, index] = -1
