"""A stream whose token is one CUDA graph, as a server would run a layer of its own."""

from __future__ import annotations

import torch
from torch import Tensor

import futurefill_kernels as ff

from .timing import captured


class ReplayedStream:
    """Generations with ``u_{t+1} = y_t``: a replay is the step, the feedback and the store.

    cache: of one layer, empty; it is empty again afterwards. rows: (N + 1, B, D), where a
    generation lies. On a CPU the plain calls stand in for the graph.
    """

    def __init__(self, cache: ff.FutureFillCache, rows: Tensor) -> None:
        self.cache, self.rows = cache, rows
        self.u = rows[0].clone()
        self.at = torch.ones(1, dtype=torch.int64, device=rows.device)
        y = torch.zeros_like(self.u)

        def token() -> None:
            with cache.capture():
                cache.step(self.u, out=y)
            rows.index_copy_(0, self.at, y[None])
            self.u.copy_(y)
            self.at.add_(1)

        cache.step(self.u, out=y)  # compiles and loads what is captured
        cache.reset()
        cache.begin_token()
        self.replay = captured(token, rows.device)
        cache.reset()

    def start(self) -> None:
        """Before a generation; not timed."""
        self.cache.reset()
        self.u.copy_(self.rows[0])
        self.at.fill_(1)

    def __call__(self) -> None:
        """The whole generation, rows[0] being its first input."""
        for _ in range(len(self.rows) - 1):
            self.cache.begin_token()
            self.replay()
            self.cache.finish_token()
