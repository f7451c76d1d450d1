"""What a model returns: logits, alone or inside of something."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def logits_of(output: Any) -> Tensor:
    """Logits (B, T, V): the output itself, its ``logits``, or the first part of a tuple."""
    found = output
    if not isinstance(found, Tensor):
        if isinstance(output, Mapping):
            found = output.get("logits")
        elif isinstance(output, tuple | list) and not hasattr(output, "logits"):
            found = output[0] if output else None
        else:
            found = getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise TypeError(
            "expected the model to return logits (B, T, V), an object with .logits, or a tuple "
            f"that begins with them, got {type(output).__name__}"
        )
    if found.ndim != 3:
        raise ValueError(f"expected the model's logits (B, T, V), got {tuple(found.shape)}")
    return found


def takes_positions(model: nn.Module) -> bool:
    """Whether the model is told of which positions logits are wanted, ``logits_to_keep``."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def last_logits(logits: Tensor, lengths: list[int], kept: list[int] | None) -> Tensor:
    """(R, V) at the last valid position of every row.

    logits: (R, K, V) of positions kept, or of the last one alone, or of all for None.
    """
    rows = torch.arange(len(lengths), device=logits.device)
    if kept is None and logits.shape[1] == 1:
        return logits[:, 0]
    at = [n - 1 for n in lengths] if kept is None else [kept.index(n - 1) for n in lengths]
    return logits[rows, torch.tensor(at, device=logits.device)]
