"""Other ways to decode the same stream, one file each.

A peer holds filters and state of one layer and offers

    load(u)       as if the inputs u (t, B, D) had been taken; not timed
    step(u_t)     (B, D) -> (B, D), one token; the next step may overwrite the result
    parts(rows)   a whole generation in parts short enough to time, see `Part`

``exact`` peers compute the convolution with the given filters; the others are models of their own,
checked against their own float64 form by ``expected(rows, t)``. ``copies`` is its memory at
batch 1 in arrays of D x L values, 0 where it does not grow with L. On a GPU a part is timed as the
replay of a CUDA graph, unless ``replayed`` is False.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Part:
    """A piece of a generation: it occurs ``weight`` times, or stands for that many like it.

    call: the timed piece; returns the last output (B, D), or None when it has none to check.
    position: of that output. prepare: untimed, before every call.
    """

    weight: float
    call: Callable[[], Tensor | None]
    position: int
    prepare: Callable[[], object]


def windows(peer: object, rows: Tensor, count: int, tokens: int) -> list[Part]:
    """``count`` windows of ``tokens`` steps in the middles of equal stretches of the stream.

    rows: (N + 1, B, D), the inputs. Exact for a cost that is linear in the position.
    """
    length = len(rows) - 1
    count = min(count, length)
    tokens = max(1, min(tokens, length // count))
    starts = [int((2 * i + 1) * length / (2 * count)) - tokens // 2 for i in range(count)]
    return [window(peer, rows, start, tokens, length / count / tokens) for start in starts]


def window(peer: object, rows: Tensor, start: int, tokens: int, weight: float) -> Part:
    """The steps ``start .. start + tokens - 1`` as one part."""

    inputs = rows[start : start + tokens].unbind(0)

    def call() -> Tensor:
        step = peer.step  # type: ignore[attr-defined]
        for u_t in inputs:
            y_t = step(u_t)
        return y_t

    def prepare() -> None:
        peer.load(rows[:start])  # type: ignore[attr-defined]

    return Part(weight, call, start + tokens - 1, prepare)


def expected_output(rows: Tensor, h: Tensor, t: int, channels: int = 32) -> Tensor:
    """Output t of the first ``channels`` channels in float64: (B, channels)."""
    taps = min(t + 1, h.shape[1])
    u = rows[t + 1 - taps : t + 1, :, :channels].double()
    return torch.einsum("tbd,dt->bd", u, h[:channels, :taps].flip(1).double())


def next_power_of_two(n: int) -> int:
    """Smallest power of two ``>= n``."""
    return 1 << max(n - 1, 0).bit_length()
