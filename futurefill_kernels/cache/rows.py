"""What happens to whole rows of a state: forgotten, reordered, saved and restored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..state.layout import from_tiles, to_tiles
from ..state.tensors import StreamState, copy_rows


def forget(state: StreamState, rows: Sequence[int]) -> None:
    """Rows back to position 0, as if nothing had come."""
    for row in rows:
        state.ring[:, row] = 0
        state.prompt_fill[:, row] = 0
        state.positions[row] = 0
        state.token_at[:, row] = -1


def reorder(state: StreamState, rows: Sequence[int]) -> None:
    """Row ``b`` becomes what row ``rows[b]`` was. rows: (B,)."""
    for tensor in (state.ring, state.kept, state.prompt_fill):
        copy_rows(tensor, rows)
    for tensor in (state.work, state.positions):
        tensor.copy_(tensor[list(rows)])
    state.token_at.fill_(-1)


def state_dict(state: StreamState, positions: Tensor) -> dict[str, Tensor]:
    """See ``FutureFillCache.state_dict``. positions: (B,) int64 on the CPU."""
    inputs = from_tiles(state.ring[..., : int(positions.max()), :], state.layout)
    taken = torch.arange(inputs.shape[-1], device="cpu") < positions[:, None, None]
    return {
        "inputs": inputs * taken.to(inputs.device),
        "prompt_fill": from_tiles(state.prompt_fill, state.layout).clone(),
        "positions": positions,
    }


def restore(state: StreamState, inputs: Tensor, prompt_fill: Tensor) -> None:
    """Write what determines a state; ``replay`` does the rest. Shapes as in ``state_dict``."""
    ring, device = state.ring, state.ring.device
    ring[..., : inputs.shape[-1], :] = to_tiles(inputs.to(device), state.layout)
    state.prompt_fill.copy_(to_tiles(prompt_fill.to(device), state.layout))
