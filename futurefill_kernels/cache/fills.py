"""The future fills of a stream: which are due after a token, and on which CUDA stream they run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..implementations.base import Implementation
from ..plan import Level
from ..state.tensors import StreamState


class Fills:
    """Launches fills of one state, for implementations whose step does not do them.

    stream: the side stream that fills run on, beside what follows a token's last layer; None, the
    current stream.
    """

    def __init__(
        self, state: StreamState, implementation: Implementation, stream: torch.cuda.Stream | None
    ) -> None:
        self.stream = stream
        self._state, self._implementation = state, implementation
        self._batch_size = state.positions.shape[0]
        self._running = False
        if stream is not None:  # the memory is not reused before fills are done with it
            for tensor in (state.ring, state.kept, state.spectra, state.positions):
                tensor.record_stream(stream)

    def launch_all(self, position: int) -> None:
        """Everything that is due after the step at a position that all rows are at."""
        plan = self._state.plan
        if (position + 1) % plan.base == 0 or plan.slack_from is not None:
            for index, share in plan.work_at(position):
                self._on_its_stream(plan.levels[index], share, None)

    def launch(self, rows: Iterable[int], positions: Sequence[int]) -> None:
        """Everything that is due after a step of some rows.

        rows: that made it; -1 is padding. positions: (B,) where they made it.
        """
        due: dict[tuple[int, int], list[int]] = {}
        plan = self._state.plan
        for row in rows:
            for work in plan.work_at(positions[row]) if row >= 0 else ():
                due.setdefault(work, []).append(row)
        for (index, share), members in sorted(due.items(), reverse=True):  # largest blocks first
            some: Tensor | None = None
            if len(members) < self._batch_size:
                some = torch.tensor(members, device=self._state.ring.device)
            self._on_its_stream(plan.levels[index], share, some)

    def join(self) -> None:
        """Later launches on the current stream wait for the fills on the side stream."""
        if self._running and self.stream is not None:
            torch.cuda.current_stream(self._state.ring.device).wait_stream(self.stream)
            self._running = False

    def _on_its_stream(self, level: Level, share: int, rows: Tensor | None) -> None:
        if self.stream is None:
            return self._fill(level, share, rows)
        if rows is not None:
            rows.record_stream(self.stream)
        self.stream.wait_stream(torch.cuda.current_stream(self._state.ring.device))
        with torch.cuda.stream(self.stream):
            self._fill(level, share, rows)
        self._running = True

    def _fill(self, level: Level, share: int, rows: Tensor | None) -> None:
        if level.steps:
            self._implementation.fill_share(self._state, level, rows, share, share + 1)
        else:
            self._implementation.fill(self._state, level, rows)
