"""What is asked of a model: prompts as one padded tensor, and how to go on, all of it checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from ..checks import valid_lengths
from .endings import Ending
from .sampling import RandomSampler, Sampler

#: callback(token, index): new ids (B,) or inputs (B, D), and their index 0 .. N-1; True ends all
Callback = Callable[[Tensor, int], Any]


@dataclass(frozen=True)
class Request:
    """A generation of R rows.

    ids: (R, P) int64, 0 after the valid lengths (R,). steps: new tokens ``N``. seeds: of every row;
    empty where the sampler does not draw. streamed: whether the caller looks at every token.
    """

    ids: Tensor
    lengths: list[int]
    steps: int
    sampler: Sampler
    seeds: list[int]
    ending: Ending
    progress: bool
    callback: Callback | None
    streamed: bool = False

    @property
    def watched(self) -> bool:
        """Whether the host has to see every token."""
        ending = self.ending
        ends = bool(ending.stop_ids or ending.sequences or ending.strings)
        return self.progress or self.callback is not None or ends or self.streamed


class RequestOptions(TypedDict):
    """Arguments of `make_request` that a decoder hands on."""

    lengths: Tensor | Sequence[int] | None
    attention_mask: Tensor | None
    ending: Ending
    progress: bool
    callback: Callback | None


def make_request(
    model: nn.Module,
    prompt: Tensor | Sequence[Tensor],
    steps: int,
    *,
    sampler: Sampler,
    lengths: Tensor | Sequence[int] | None,
    attention_mask: Tensor | None,
    ending: Ending,
    progress: bool,
    callback: Callback | None,
) -> Request:
    """The request, or a ValueError or TypeError that says what is wrong with it."""
    ids, valid = pad(prompt, lengths, attention_mask)
    stops = [*ending.stop_ids, *(id_ for s in ending.sequences for id_ in s), ending.pad_id]
    _check_ids(model, ids, stops)
    seeds = sampler.seeds(len(ids)) if isinstance(sampler, RandomSampler) else []
    return Request(ids, valid, steps, sampler, seeds, ending, progress, callback)


def pad(
    prompt: Tensor | Sequence[Tensor],
    lengths: Tensor | Sequence[int] | None,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, list[int]]:
    """Prompts as ids (R, P), 0 after the valid lengths, and these.

    attention_mask: (R, P), nonzero where the prompt is; padding on either side or on both.
    """
    if attention_mask is not None:
        if lengths is not None:
            raise ValueError("lengths and attention_mask say the same: expected one of them")
        prompt = _masked(prompt, attention_mask)
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


def _masked(prompt: Tensor | Sequence[Tensor], attention_mask: Tensor) -> list[Tensor]:
    """The ids that a mask leaves, (P_r,) of each row."""
    if not isinstance(prompt, Tensor):
        raise ValueError("attention_mask belongs to a padded prompt (B, P); a list needs none")
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != prompt.shape:
        found = getattr(attention_mask, "shape", type(attention_mask).__name__)
        raise ValueError(
            f"expected attention_mask (B, P) = {tuple(prompt.shape)} like prompt, got "
            f"{tuple(found) if isinstance(found, torch.Size) else found}"
        )
    inside = (attention_mask != 0).to(prompt.device)
    for row, mask in enumerate(inside.tolist()):
        first, count = mask.index(True) if any(mask) else 0, sum(mask)
        if not count or not all(mask[first : first + count]):
            raise ValueError(
                f"expected attention_mask to be nonzero in one run of each row, not in row {row}"
            )
    return [ids[mask] for ids, mask in zip(prompt, inside, strict=True)]


def _check_ids(model: nn.Module, ids: Tensor, others: Sequence[int]) -> None:
    """Every id inside the vocabulary, which is the size of the model's first embedding."""
    embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
    if embedding is None:
        return
    given = [int(ids.min()), int(ids.max()), *others]
    for value in given:
        if not 0 <= value < embedding.num_embeddings:
            raise ValueError(
                f"expected ids in 0 .. {embedding.num_embeddings - 1} (the vocabulary), got {value}"
            )
