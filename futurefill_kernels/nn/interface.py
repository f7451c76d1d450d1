"""What mixers ask of the decoding state that they are called with."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Cache(Protocol):
    """The state of a model's convolutions, as its mixers see it."""

    def long_conv(self, module: Any, u: Tensor, pre: Tensor | None, post: Tensor | None) -> Tensor:
        """What ``module(u, pre=pre, post=post)``, a `LongFilter`, adds for these tokens.

        u, pre, post: (R, D, T). Returns y like u.
        """
        ...

    def short_conv(self, module: Any, x: Tensor) -> Tensor:
        """What ``module(x)``, a `ShortConv`, gives for these tokens. x: (R, C, T)."""
        ...

    def fused_token(self, model: Any, ids: Tensor) -> Tensor | None:
        """Logits (B, 1, V) of a token ids (B, 1) of all rows, or None: layers go one by one."""
        ...

    def wanted(self, x: Tensor) -> Tensor:
        """The positions of x (R, T, D) of which the caller reads outputs: (R, 1, D), or all."""
        ...
