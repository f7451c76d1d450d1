"""Solution: values on the whole grid, with their times."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Solution(NamedTuple):
    """What a solver returns.

    times: (N + 1,) float64. values: (N + 1, *shape of one value).
    """

    times: Tensor
    values: Tensor

    def at(self, t: float | Tensor) -> Tensor:
        """Values between grid points, linearly interpolated. t: a number or (n,), within the times.

        Returns (*shape of one value) or (n, *shape of one value).
        """
        where = torch.as_tensor(t, dtype=torch.float64, device=self.times.device)
        last = len(self.times) - 1
        if not bool(((where >= self.times[0]) & (where <= self.times[last])).all()):
            raise ValueError(
                f"expected t within {float(self.times[0])} .. {float(self.times[last])}, got {t}"
            )
        left = (torch.searchsorted(self.times, where, right=True) - 1).clamp(max=last - 1)
        share = (where - self.times[left]) / (self.times[left + 1] - self.times[left])
        share = share.to(self.values.dtype).reshape(share.shape + (1,) * (self.values.ndim - 1))
        return torch.lerp(self.values[left], self.values[left + 1], share)


def grid(t_end: float, steps: int) -> Tensor:
    """(steps + 1,) float64 times 0 .. t_end on the CPU. ValueError unless both are positive."""
    if not 0 < t_end < float("inf"):
        raise ValueError(f"expected 0 < t_end < inf, got {t_end}")
    if steps < 1:
        raise ValueError(f"expected steps >= 1, got {steps}")
    return torch.arange(steps + 1, dtype=torch.float64, device="cpu") * (t_end / steps)
