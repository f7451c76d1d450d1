"""Tokens on their way to the host, without waiting for those that follow."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Results:
    """The rows of a tensor on the host.

    stored: (N, width) int64. cuda: whether it is on a GPU, where ``send`` starts a copy to pinned
    memory behind what has been launched and ``receive`` waits for that copy alone. Two can be under
    way.
    """

    def __init__(self, stored: Tensor, cuda: bool) -> None:
        self._stored, self._cuda = stored, cuda
        self._host = stored
        if cuda:
            width = stored.shape[1]
            self._host = torch.empty(2, width, dtype=stored.dtype, device="cpu", pin_memory=True)
            self._arrived = [torch.cuda.Event() for _ in range(2)]
        self._lines: NDArray[np.int64] = self._host.numpy()

    def send(self, index: int) -> None:
        """Row ``index`` is on its way, of what has been launched up to here."""
        if self._cuda:
            self._host[index % 2].copy_(self._stored[index], non_blocking=True)
            self._arrived[index % 2].record()

    def receive(self, index: int) -> NDArray[np.int64]:
        """Row ``index``, (width,); overwritten later."""
        if not self._cuda:
            return self._lines[index]
        self._arrived[index % 2].synchronize()
        return self._lines[index % 2]
