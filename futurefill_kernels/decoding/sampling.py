"""Samplers: what makes ids (B,) of logits (B, V)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import isnan

import torch
from torch import Tensor

from ..checks import integer, integers
from .draws import uniforms


def refuse_nan(logits: Tensor) -> None:
    """ValueError for logits (B, V) with NaN on the host; a GPU is not waited for."""
    if logits.device.type == "cpu" and bool(logits.isnan().any()):
        rows = logits.isnan().any(-1).nonzero()[:, 0].tolist()
        raise ValueError(f"expected logits without NaN, got NaN in rows {rows}")


def greedy(logits: Tensor) -> Tensor:
    """The most likely id of every row; the lowest one among equals. logits: (B, V) -> (B,).

    ValueError for NaN on the CPU.
    """
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    largest, ids = logits.max(-1)  # NaN where there is one
    if any(map(isnan, largest.tolist())):
        refuse_nan(logits)
    return ids


class RandomSampler:
    """Draws from ``softmax(logits / temperature)`` after dropping unlikely ids.

    temperature: > 0; below 1 sharpens. top_k: keep the k most likely ids. top_p: keep the fewest
    ids whose probabilities sum to at least p, always one. seed: row ``b`` draws with ``seed + b``,
    or a seed for every row, (B,).

    A sampler has no state: what a row draws depends on its logits, its seed and the index of the
    token (`draws`). Raises ValueError for values out of range.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | Sequence[int] | Tensor = 0,
    ) -> None:
        if not 0 < temperature < float("inf"):
            raise ValueError(f"expected temperature > 0, got {temperature}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"expected top_k >= 1, got {top_k}")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"expected top_p in (0, 1], got {top_p}")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        one = isinstance(seed, int) or (isinstance(seed, Tensor) and seed.ndim == 0)
        self.seed = integer("seed", seed) if one else integers("seed", seed)

    def temperature_in(self, dtype: torch.dtype) -> float:
        """The nearest temperature that logits of a dtype can be divided by."""
        numbers = torch.finfo(dtype)
        return min(max(self.temperature, numbers.tiny), numbers.max)

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution drawn from. logits: (B, V). Returns (B, V) float32 or float64."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # from the largest, or a low temperature lifts logits beyond every number
        temperature = self.temperature_in(logits.dtype)
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            smallest = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        if self.top_p is not None:
            ordered, ids = logits.softmax(-1).sort(descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered  # mass of the likelier ids
            drop = torch.zeros_like(before, dtype=torch.bool)
            drop.scatter_(-1, ids, before >= self.top_p)
            drop.scatter_(-1, ids[..., :1], False)
            logits = logits.masked_fill(drop, -torch.inf)
        return logits.softmax(-1)

    def seeds(self, rows: int) -> list[int]:
        """The seed of each of some rows. ValueError where there is one per row and not as many."""
        if isinstance(self.seed, int):
            return [self.seed + row for row in range(rows)]
        if len(self.seed) != rows:
            raise ValueError(f"expected seed to be an int or ({rows},), got ({len(self.seed)},)")
        return self.seed

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """The ids at which the cumulated probabilities pass some numbers, taken from nothing else.

        logits: (B, V). uniform: (B,) float64 in [0, 1). Returns (B,) int64.
        """
        refuse_nan(logits)
        p = self.probabilities(logits).double()
        # sums of a parallel scan may fall by a rounding: only ids that were kept can be drawn
        cumulated = p.cumsum(-1).masked_fill(p <= 0, 0)
        passed = cumulated > uniform[:, None] * cumulated.amax(-1, keepdim=True)
        return passed.to(torch.uint8).argmax(-1)

    def __call__(self, logits: Tensor, index: int) -> Tensor:
        """What every row draws at an index, 0 for the first new token. logits: (B, V) -> (B,)."""
        numbers = uniforms(self.seeds(len(logits)), index, index + 1)[0]
        return self.draw(logits, numbers.to(logits.device))


#: Logits (B, V) -> ids (B,) int64, or a `RandomSampler`, which draws by the index of the token.
Sampler = Callable[[Tensor], Tensor] | RandomSampler


def graph_key(sampler: Sampler) -> Hashable:
    """What a CUDA graph of the sampler would bake in, equal for equal graphs; None where it cannot
    be captured: nobody knows what a function of the caller's does.
    """
    if sampler is greedy:
        return "greedy"
    if type(sampler) is RandomSampler:
        return sampler.temperature, sampler.top_k, sampler.top_p
    return None


def make_sampler(
    temperature: float = 0.0,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | Sequence[int] | Tensor = 0,
) -> Sampler:
    """`greedy` for temperature 0, else a `RandomSampler`."""
    if temperature == 0:
        return greedy
    return RandomSampler(temperature, top_k=top_k, top_p=top_p, seed=seed)
