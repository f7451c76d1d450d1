"""What follows a token's logits: sampling, stops and the store of the token.

On the device, so that nothing waits for the host and a CUDA graph can hold it, or on the host for
tokens that it launches on its own memory, where a small operation of torch costs more than it does.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isnan

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .draws import uniforms
from .endings import Ending
from .request import Request
from .sampling import RandomSampler, Sampler, greedy, refuse_nan

#: Draws that are made at once, by a hundred small operations of the host: 64 take 0.14 ms on one
#: core of an EPYC, 256 take 0.27, and the first token waits for them.
_DRAWS = 64


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
        if index % _DRAWS == 0 and isinstance(self._sampler, RandomSampler):
            assert self._uniforms is not None
            end = min(index + _DRAWS, len(self._uniforms))
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


class HostTail:
    """The same, of tokens that are launched one by one on the CPU.

    stored, ids: as in `Tail`. Reading and writing them is NumPy's; samplers that draw are torch's.
    """

    def __init__(self, batch_size: int, length: int) -> None:
        self._book = np.zeros((length, batch_size + 1), dtype=np.int64)
        self._newest = np.zeros((batch_size, 1), dtype=np.int64)
        self.stored, self.ids = torch.from_numpy(self._book), torch.from_numpy(self._newest)
        self._rows = np.arange(batch_size)
        self._index = 0  # of the next token
        self._running = np.ones(batch_size, dtype=np.bool_)
        self._going = np.ones(0, dtype=np.bool_)  # (V,): whether a row goes on after an id
        self._uniforms = torch.zeros(0, batch_size, dtype=torch.float64, device="cpu")
        self._sampler: Sampler = greedy
        self._seeds: list[int] = []
        self._ending = Ending((), (), (), None, 0)

    def begin(self, request: Request, vocabulary: int) -> None:
        """Before the first token of a request. Its rows are the first R; the others are padding."""
        rows = len(request.ids)
        self._sampler, self._ending = request.sampler, request.ending
        self._seeds = request.seeds + [0] * (len(self._rows) - rows)
        self._running[:] = self._rows < rows
        self._going = np.ones(vocabulary, dtype=np.bool_)
        self._going[[stop for stop in request.ending.stop_ids if 0 <= stop < vocabulary]] = False

    def prepare(self, index: int) -> None:
        """Before the token of an index: the draws of many at once."""
        self._index = index
        if index % _DRAWS == 0 and isinstance(self._sampler, RandomSampler):
            end = min(index + _DRAWS, len(self._book))
            self._uniforms = uniforms(self._seeds, index, end)

    def __call__(self, logits: Tensor) -> None:
        """One token. logits: (B, V)."""
        sampler, newest = self._sampler, self._newest[:, 0]
        if sampler is greedy:
            newest[:] = self._greedy(logits)
        elif isinstance(sampler, RandomSampler):
            newest[:] = sampler.draw(logits, self._uniforms[self._index % _DRAWS]).numpy()
        else:
            newest[:] = sampler(logits).numpy(force=True)
        line = self._book[self._index]
        if self._ending.stop_ids:
            newest[~self._running] = self._ending.pad_id
            self._running &= self._going[newest]
            line[-1] = self._running.sum()
        line[:-1] = newest

    def _greedy(self, logits: Tensor) -> NDArray[np.int64]:
        """What `greedy` gives, the same id of equal logits."""
        if logits.dtype not in (torch.float32, torch.float64):  # NumPy has no bfloat16
            return greedy(logits).numpy()
        values = logits.numpy(force=True)
        ids: NDArray[np.int64] = values.argmax(-1)  # of NaN where there is one
        if any(map(isnan, values[self._rows, ids].tolist())):
            refuse_nan(logits)
        return ids
