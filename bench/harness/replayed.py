"""A token as one CUDA graph: of a stream alone, and of a model with any plan.

On a CPU the plain calls stand in for the graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import futurefill_kernels as ff

from .timing import captured


class ReplayedStream:
    """Generations with ``u_{t+1} = y_t``: a replay is the step, the feedback and the store.

    cache: of one layer, empty; it is empty again afterwards. rows: (N + 1, B, D), where a
    generation lies.
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


class ReplayedModel:
    """Greedy tokens of a model whose cache has taken the prompt and one step.

    ids: (B, 1), the newest token, fed next. A replay feeds it, takes the largest logit and stores
    it in ``new``.
    """

    def __init__(self, model: nn.Module, cache: ff.DecodingCache, ids: Tensor, most: int) -> None:
        self.cache, self.ids = cache, ids.clone()
        self.new = ids.new_zeros(len(ids), most)
        self.at = torch.zeros(1, dtype=torch.int64, device=ids.device)

        @torch.no_grad()
        def token() -> None:
            with cache.capture():
                logits = model(self.ids, cache=cache)
            self.ids.copy_(logits[:, -1].argmax(-1, keepdim=True))
            self.new.index_copy_(1, self.at, self.ids)
            self.at.add_(1)

        cache.begin_token()
        self.replay = captured(token, ids.device)
        self.begun = True

    def __call__(self, tokens: int) -> Tensor:
        """(B, tokens) new ids."""
        for _ in range(tokens):
            if not self.begun:
                self.cache.begin_token()
            self.begun = False
            self.replay()
            self.cache.finish_token()
        return self.new[:, :tokens]
