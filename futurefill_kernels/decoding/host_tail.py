"""What follows a token's logits on the host, for tokens that it launches on its own memory, where a
small operation of torch costs more than it does.
"""

from __future__ import annotations

from math import isnan

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .draws import DRAWS, uniforms
from .endings import Ending
from .host_draws import draw
from .request import Request
from .sampling import RandomSampler, Sampler, greedy, refuse_nan


class HostTail:
    """`Tail` of tokens that are launched one by one on the CPU.

    stored, ids: as in `Tail`. Reading, drawing and writing them is NumPy's.
    """

    def __init__(self, batch_size: int, length: int) -> None:
        self._book = np.zeros((length, batch_size + 1), dtype=np.int64)
        self._newest = np.zeros((batch_size, 1), dtype=np.int64)
        self.stored, self.ids = torch.from_numpy(self._book), torch.from_numpy(self._newest)
        self._rows = np.arange(batch_size)
        self._index = 0  # of the next token
        self._running = np.ones(batch_size, dtype=np.bool_)
        self._going_on = batch_size  # rows that are running
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
        self._going_on = rows
        self._going = np.ones(vocabulary, dtype=np.bool_)
        self._going[[stop for stop in request.ending.stop_ids if 0 <= stop < vocabulary]] = False

    def prepare(self, index: int) -> None:
        """Before the token of an index: the draws of many at once."""
        self._index = index
        if index % DRAWS == 0 and isinstance(self._sampler, RandomSampler):
            end = min(index + DRAWS, len(self._book))
            self._uniforms = uniforms(self._seeds, index, end)

    def __call__(self, logits: Tensor) -> None:
        """One token. logits: (B, V)."""
        sampler, newest = self._sampler, self._newest[:, 0]
        if sampler is greedy:
            newest[:] = self._greedy(logits)
        elif isinstance(sampler, RandomSampler):
            newest[:] = draw(sampler, logits, self._uniforms[self._index % DRAWS])
        else:
            newest[:] = sampler(logits).numpy(force=True)
        line = self._book[self._index]
        if self._ending.stop_ids:
            if self._going_on < len(newest):
                newest[~self._running] = self._ending.pad_id
            self._running &= self._going[newest]
            line[-1] = self._going_on = int(np.count_nonzero(self._running))
        line[:-1] = newest

    def _greedy(self, logits: Tensor) -> NDArray[np.int64]:
        """What `greedy` gives, the same id of equal logits."""
        if logits.dtype not in (torch.float32, torch.float64):  # NumPy has no bfloat16
            return greedy(logits).numpy()
        plain = not logits.requires_grad and not logits.is_neg()
        values = logits.numpy() if plain else logits.numpy(force=True)  # which takes 3 us
        ids: NDArray[np.int64] = values.argmax(-1)  # of NaN where there is one
        if any(isnan(values.item(row, id_)) for row, id_ in enumerate(ids.tolist())):
            refuse_nan(logits)
        return ids
