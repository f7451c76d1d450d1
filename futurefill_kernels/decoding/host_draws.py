"""`RandomSampler.draw` on the host, where small operations of torch cost more than they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .sampling import RandomSampler, refuse_nan

#: The vocabulary up to which they do. Whatever the batch, so that a row draws as it does alone.
LARGEST = 1024


def draw(sampler: RandomSampler, logits: Tensor, uniform: Tensor) -> NDArray[np.int64]:
    """As `RandomSampler.draw`, up to rounding. logits: (B, V). uniform: (B,) float64 in [0, 1)."""
    if logits.shape[-1] > LARGEST or type(sampler) is not RandomSampler:
        ids: NDArray[np.int64] = sampler.draw(logits, uniform).numpy(force=True)
        return ids
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    values: NDArray[Any] = wide.numpy(force=True)
    largest = values.max(-1, keepdims=True)  # NaN where there is one
    if np.isnan(largest).any():
        refuse_nan(logits)
    temperature = sampler.temperature_in(wide.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # as torch, which says nothing
        weights = (values - largest) / values.dtype.type(temperature)
    if sampler.top_k is not None and sampler.top_k < values.shape[-1]:
        place = values.shape[-1] - sampler.top_k
        smallest = np.partition(weights, place, -1)[:, place : place + 1]
        weights[weights < smallest] = -np.inf
    np.exp(weights, weights)
    if sampler.top_p is not None:
        order = np.argsort(-weights, -1, kind="stable")
        ordered = np.take_along_axis(weights, order, -1)
        sums = ordered.cumsum(-1)
        drop = sums - ordered >= sampler.top_p * sums[:, -1:]
        drop[:, 0] = False
        rows, places = drop.nonzero()
        weights[rows, order[rows, places]] = 0
    sums = weights.cumsum(-1, dtype=np.float64)
    passed = (sums > uniform.numpy()[:, None] * sums[:, -1:]) & (weights > 0)
    found: NDArray[np.int64] = passed.argmax(-1)
    return found
