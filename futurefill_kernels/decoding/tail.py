"""What follows a token's logits: sampling, stops and the store of the token. On the device, so that
nothing waits for the host and a CUDA graph can hold it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .draws import DRAWS, uniforms
from .request import Request
from .sampling import RandomSampler, Sampler, greedy


class Tail:
    """Tokens of B rows, in tensors that stay where they are, so that a CUDA graph can use them.

    stored: (N, B + 1) int64, the ids of every new token and how many rows go on after it (where
    there are stops). ids: (B, 1), the newest token's.
    """

    def __init__(self, batch_size: int, length: int, device: torch.device) -> None:
        self.stored = torch.zeros(length, batch_size + 1, dtype=torch.int64, device=device)
        self._newest = torch.zeros(1, batch_size + 1, dtype=torch.int64, device=device)
        self.ids = self._newest[:, :-1].T
        self._index = torch.zeros(1, dtype=torch.int64, device=device)  # of the next token
        self._running = torch.ones(batch_size, dtype=torch.bool, device=device)
        self._pad = torch.zeros(1, dtype=torch.int64, device=device)
        self._going: Tensor | None = None  # (V,) bool: whether a row goes on after an id
        self._uniforms: Tensor | None = None  # (N, B) float64
        self._sampler: Sampler | None = None
        self._seeds: list[int] = []
        self._stops = False

    def begin(self, request: Request, vocabulary: int) -> None:
        """Before the first token of a request. Its rows are the first R; the others are padding."""
        device, rows = self.stored.device, len(request.ids)
        self._sampler, self._stops = request.sampler, bool(request.ending.stop_ids)
        self._index.zero_()
        if self._stops:
            self._running.fill_(True)[rows:] = False
            self._pad.fill_(request.ending.pad_id)
            if self._going is None or len(self._going) != vocabulary:
                self._going = torch.empty(vocabulary, dtype=torch.bool, device=device)
            stops = [stop for stop in request.ending.stop_ids if 0 <= stop < vocabulary]
            self._going.fill_(True)[stops] = False
        if isinstance(request.sampler, RandomSampler):
            self._seeds = request.seeds + [0] * (len(self._running) - rows)
            if self._uniforms is None:
                shape = (len(self.stored), len(self._running))
                self._uniforms = torch.zeros(shape, dtype=torch.float64, device=device)

    def prepare(self, index: int) -> None:
        """Before the token of an index, from the host: the draws of many at once."""
        if index % DRAWS == 0 and isinstance(self._sampler, RandomSampler):
            assert self._uniforms is not None
            end = min(index + DRAWS, len(self._uniforms))
            self._uniforms[index:end] = uniforms(self._seeds, index, end).to(self._uniforms.device)

    def __call__(self, logits: Tensor, draw_greedy: Callable[[Tensor], Tensor] = greedy) -> None:
        """One token. Takes nothing from the host and never waits for it.

        logits: (B, V). draw_greedy: what stands for `greedy`.
        """
        ids = draw_greedy(logits) if self._sampler is greedy else self._sample(logits)
        if self._stops:
            assert self._going is not None
            ids = torch.where(self._running, ids, self._pad)
            self._running.logical_and_(self._going.index_select(0, ids))
            torch.sum(self._running, 0, keepdim=True, out=self._newest[0, -1:])
        self.ids.copy_(ids[:, None])
        self.stored.index_copy_(0, self._index, self._newest)
        self._index.add_(1)

    def _sample(self, logits: Tensor) -> Tensor:
        sampler = self._sampler
        assert sampler is not None
        if isinstance(sampler, RandomSampler):
            assert self._uniforms is not None
            return sampler.draw(logits, self._uniforms.index_select(0, self._index)[0])
        return sampler(logits)
