"""Samplers: functions from logits (B, V) to ids (B,)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Logits (B, V) -> ids (B,) int64.
Sampler = Callable[[Tensor], Tensor]


def greedy(logits: Tensor) -> Tensor:
    """The most likely id of every row; the lowest one among equals. logits: (B, V) -> (B,)."""
    return logits.argmax(-1)


class RandomSampler:
    """Draws from ``softmax(logits / temperature)`` after dropping unlikely ids.

    temperature: > 0; below 1 sharpens. top_k: keep the k most likely ids. top_p: keep the fewest
    ids whose probabilities sum to at least p, always one. seed: same seed, same draws.
    Raises ValueError for values out of range.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 < temperature < float("inf"):
            raise ValueError(f"expected temperature > 0, got {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"expected top_k >= 1, got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"expected top_p in (0, 1], got {top_p}")
        self.temperature, self.top_k, self.top_p, self.seed = temperature, top_k, top_p, seed
        self._generator: torch.Generator | None = None

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution drawn from. logits: (B, V). Returns (B, V) float32 or float64."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            smallest = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        if self.top_p is not None:
            ordered, ids = logits.softmax(-1).sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # mass of the likelier ids
            drop = torch.zeros_like(before, dtype=torch.bool)
            drop.scatter_(-1, ids, before >= self.top_p)
            drop.scatter_(-1, ids[..., :1], False)
            logits = logits.masked_fill(drop, -torch.inf)
        return logits.softmax(-1)

    def __call__(self, logits: Tensor) -> Tensor:
        """Draw one id per row. logits: (B, V). Returns (B,) int64."""
        if self._generator is None:
            self._generator = torch.Generator(logits.device).manual_seed(self.seed)
        drawn = torch.multinomial(self.probabilities(logits), 1, generator=self._generator)
        return drawn[:, 0]


def make_sampler(
    temperature: float = 0.0,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Sampler:
    """`greedy` for temperature 0, else a `RandomSampler`."""
    if temperature == 0:
        return greedy
    return RandomSampler(temperature, top_k=top_k, top_p=top_p, seed=seed)
