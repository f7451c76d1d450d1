"""One call of a model: which rows it is about, and whether it is a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..cache.cache import FutureFillCache
from ..cache.checks import check_room
from ..checks import refuse_grad, valid_lengths


@dataclass(frozen=True)
class Selection:
    """What the caller says about the next calls.

    rows: of the batch, None for all. lengths: valid positions of right-padded prompts. last:
    whether outputs of the last valid position of every row are enough.
    """

    rows: list[int] | None = None
    lengths: Tensor | Sequence[int] | None = None
    last: bool = False


@dataclass(frozen=True)
class Call:
    """A call of the model about R rows.

    rows: of the batch, None for all. lengths: (R,) valid positions. seen: (R,) whether a row had
    seen anything before. padded: whether the caller gave lengths. stepping: whether it is one token
    of the stream.
    """

    rows: list[int] | None
    lengths: list[int]
    seen: list[bool]
    padded: bool
    stepping: bool


def begin_call(x: Tensor, selection: Selection, seen: Tensor, cache: FutureFillCache) -> Call:
    """Check everything that could fail later, before any state changes, and choose the mode.

    x: (R, C, T) inputs of the first convolution. seen: (B,) bool, whether a row has seen
    anything. cache: one of the model's, which all have the same positions.
    """
    refuse_grad(x=x)
    rows = range(len(seen)) if selection.rows is None else selection.rows
    count, width = x.shape[0], x.shape[2]
    if count != len(rows) or width < 1:
        raise ValueError(
            f"expected inputs of {len(rows)} rows and at least one position, "
            f"got {count} rows and {width} positions"
        )
    before = seen[list(rows)].tolist()
    padded = selection.lengths is not None
    stepping = width == 1 and not padded and all(before)
    lengths = valid_lengths(selection.lengths, count, width)
    for row, taken in zip(rows, lengths, strict=True):
        if stepping or not cache.in_prompt(row):
            check_room(row, cache.room(row), taken, cache.max_new_tokens)
    return Call(selection.rows, lengths, before, padded, stepping)
