"""Padding on any side, as an attention mask says it, becomes padding on the right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Ids of a call, right-padded.

    ids: (B, W), 0 in the padding. columns: T, of the ids that were given. lengths: (B,) valid ones;
    None: all W. place: (B, T), where the given ids are in ``ids``; None: where they were.
    """

    ids: Tensor
    columns: int
    lengths: Tensor | None = None
    place: Tensor | None = None

    def logits(self, logits: Tensor, keep: int | Tensor) -> Tensor:
        """Logits at columns of the given ids; in padding they are anything.

        logits: (B, W, V) of right-padded ids, or fewer at the left. keep: how many of the last
        columns, 0 for all, or which; 1 is the last valid one.
        """
        rows = torch.arange(len(logits), device=logits.device)[:, None]
        if not isinstance(keep, int):
            place = self.place
            return logits[:, keep] if place is None else logits[rows, place[:, keep]]
        if keep == 1 and logits.shape[1] > 1 and self.lengths is not None:
            return logits[rows, self.lengths[:, None] - 1]
        if self.place is not None and logits.shape[1] == self.ids.shape[1]:
            logits = logits[rows, self.place]
        return logits[:, -keep:]


def right_padded(ids: Tensor, mask: Tensor | None) -> Tokens:
    """ids: (B, T). mask: (B, T), nonzero where an id counts. Raises ValueError for a row without
    any.
    """
    columns = ids.shape[1]
    if mask is None or bool((mask != 0).all()):
        return Tokens(ids, columns)
    inside = mask != 0
    lengths = inside.sum(1)
    width, shortest = int(lengths.max()), int(lengths.min())
    if shortest == 0:
        raise ValueError("expected attention_mask to be nonzero somewhere in every row")
    order = (~inside).to(torch.uint8).argsort(dim=1, stable=True)
    place = order.argsort(dim=1).clamp(max=width - 1)
    found = ids.where(inside, 0).gather(1, order)[:, :width]
    return Tokens(found, columns, None if shortest == width else lengths, place)
