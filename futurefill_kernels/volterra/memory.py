"""Memory: what all values so far add to the next one, on FutureFillCache."""

from __future__ import annotations

import math
import operator
from itertools import accumulate

import torch
from torch import Size, Tensor

from ..cache.cache import FutureFillCache

#: Paths of a filter row are padded to a multiple of this, so that whole vector registers share it;
#: fewer than half of it get a copy of the filter each.
_UNIT = 16


class Memory:
    """``sums_n = sum_{j=1..n} w_j u_{n-j}`` for n = 1, 2, ..., where ``u_n`` may depend on sums_n.

    It is a step of ``u_{n-1}`` through the filter ``w[1:]``: the newest value takes no part, so an
    implicit method has one sum per step, however often it looks at ``f(y_n)``.

    taps: (K, G, N), w_1 .. w_N of K sums. shape: of one value u_n; its leading dimensions have G
        entries, one for each filter row, or G is 1. impl: of `FutureFillCache`.
    dtype, device: of the values, default those of the taps.

    ``input``, (K, *shape), is written before each ``advance()``; ``sums``, (K, *shape), is read
    after it. Paths are channels of one row of the batch, so they share a filter's memory, and NaN
    in one of them stays there.
    """

    def __init__(
        self,
        taps: Tensor,
        shape: Size | tuple[int, ...],
        *,
        impl: str = "auto",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if taps.ndim != 3 or 0 in taps.shape:
            raise ValueError(f"expected taps (K, G, N), not empty, got {tuple(taps.shape)}")
        sums, groups, steps = taps.shape
        values = math.prod(shape)
        if values < 1 or groups not in accumulate(shape, operator.mul, initial=1):
            raise ValueError(
                f"expected shape (G, ...) with G = {groups} filter rows, got {tuple(shape)}"
            )
        dtype, device = dtype or taps.dtype, device or taps.device
        paths = values // groups
        padded = paths if paths < _UNIT // 2 else -(-paths // _UNIT) * _UNIT
        self.cache = FutureFillCache(
            taps.flatten(0, 1), 1, steps, channels=sums * groups * padded, impl=impl, dtype=dtype,
            device=device,
        )  # fmt: skip
        self._u = torch.zeros(1, self.cache.channels, dtype=dtype, device=device)
        self._y = torch.zeros_like(self._u)

        def of_values(x: Tensor) -> Tensor:
            return x.view(sums, groups, padded)[..., :paths].view(sums, *shape)

        self.input, self.sums = of_values(self._u), of_values(self._y)

    def advance(self) -> None:
        """The values in ``input`` are the newest; ``sums`` is for the step after them."""
        self.cache.step(self._u, out=self._y)
