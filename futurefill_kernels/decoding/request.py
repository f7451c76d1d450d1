"""What is asked of a model: prompts as one padded tensor, and how to go on, all of it checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import integer, integers, valid_lengths
from .sampling import RandomSampler, Sampler

#: callback(token, index): new ids (B,) or inputs (B, D), and their index 0 .. N-1
Callback = Callable[[Tensor, int], Any]


@dataclass(frozen=True)
class Request:
    """A generation of R rows.

    ids: (R, P) int64, 0 after the valid lengths (R,). steps: new tokens ``N``. seeds: of every row;
    empty where the sampler does not draw.
    """

    ids: Tensor
    lengths: list[int]
    steps: int
    sampler: Sampler
    seeds: list[int]
    stop_ids: tuple[int, ...]
    pad_id: int
    progress: bool
    callback: Callback | None

    @property
    def watched(self) -> bool:
        """Whether the host has to see every token."""
        return self.progress or self.callback is not None or bool(self.stop_ids)


def make_request(
    model: nn.Module,
    prompt: Tensor | Sequence[Tensor],
    steps: int,
    *,
    sampler: Sampler,
    lengths: Tensor | Sequence[int] | None,
    stop_ids: Sequence[int],
    pad_id: int,
    progress: bool,
    callback: Callback | None,
) -> Request:
    """The request, or a ValueError or TypeError that says what is wrong with it."""
    ids, valid = pad(prompt, lengths)
    stops, pad_id = tuple(integers("stop_ids", stop_ids)), integer("pad_id", pad_id)
    _check_ids(model, ids, stops, pad_id)
    seeds = sampler.seeds(len(ids)) if isinstance(sampler, RandomSampler) else []
    return Request(ids, valid, steps, sampler, seeds, stops, pad_id, progress, callback)


def pad(
    prompt: Tensor | Sequence[Tensor], lengths: Tensor | Sequence[int] | None
) -> tuple[Tensor, list[int]]:
    """Prompts as ids (R, P), 0 after the valid lengths, and these."""
    if not isinstance(prompt, Tensor):
        if lengths is not None:
            raise ValueError("lengths belong to a padded prompt (B, P); a list has its own")
        try:
            rows = list(prompt)
        except TypeError:
            rows = []
        if not rows or any(not isinstance(row, Tensor) or row.ndim != 1 for row in rows):
            raise ValueError("expected prompt ids (B, P) or a non-empty list of 1-D tensors")
        if any(len(row) == 0 for row in rows):
            raise ValueError("empty prompt: expected at least one id in every row")
        lengths = [len(row) for row in rows]
        prompt = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    if prompt.ndim != 2:
        raise ValueError(f"expected prompt ids (B, P), got shape {tuple(prompt.shape)}")
    if 0 in prompt.shape:
        raise ValueError(f"empty prompt: expected ids (B, P), got shape {tuple(prompt.shape)}")
    if prompt.is_floating_point() or prompt.is_complex() or prompt.dtype == torch.bool:
        raise TypeError(f"expected prompt ids of an integer dtype, got {prompt.dtype}")
    valid = valid_lengths(lengths, *prompt.shape)
    if min(valid) == prompt.shape[1]:
        return prompt.long(), valid
    counts = torch.tensor(valid, device="cpu")
    inside = torch.arange(prompt.shape[1], device="cpu") < counts[:, None]
    return prompt.long().where(inside.to(prompt.device), 0), valid


def _check_ids(model: nn.Module, ids: Tensor, stop_ids: Sequence[int], pad_id: int) -> None:
    """Every id inside the vocabulary, which is the size of the model's first embedding."""
    embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    if embedding is None:
        return
    given = [int(ids.min()), int(ids.max()), *stop_ids, pad_id]
    for value in given:
        if not 0 <= value < embedding.num_embeddings:
            raise ValueError(
                f"expected ids in 0 .. {embedding.num_embeddings - 1} (the vocabulary), got {value}"
            )
