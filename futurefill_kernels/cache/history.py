"""The sums over older inputs that a token begins with, where an implementation makes them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..implementations.base import Implementation
from ..state.tensors import StreamState


class History:
    """When the sums of one state's next token are launched, and on which CUDA stream.

    needed: whether steps need them at all.
    """

    def __init__(self, state: StreamState, implementation: Implementation) -> None:
        self._launch = implementation.make_history(state)
        self.needed = self._launch is not None
        self._device = state.ring.device
        self._summed = False
        self._stream: torch.cuda.Stream | None = None

    def sum(self, rows: Tensor | None, stream: torch.cuda.Stream | None = None) -> None:
        """Launch them for a token of rows, None for all, on a stream beside the current one."""
        if self._launch is None or self._summed:
            return
        if stream is None:
            self._launch(rows)
        else:
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                self._launch(rows)
        self._summed, self._stream = True, stream

    def join(self, rows: Tensor | None) -> None:
        """What follows on the current stream has the sums of this token."""
        self.sum(rows)
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self.drop()

    def drop(self) -> None:
        """The next token needs its own."""
        self._summed, self._stream = False, None
