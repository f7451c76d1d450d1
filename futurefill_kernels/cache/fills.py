"""The future fills of a stream: which are due after a token, and when and where they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..implementations.base import Implementation
from ..level import Level
from ..state.open_block import turn
from ..state.tensors import StreamState
from .images import changed, copy, kept_image, lanes_of_share, views
from .memory import storages


class _Work(NamedTuple):
    """A launch: a level's fill or a share of it, and per end of a block the rows that are there.

    members: all rows on the device, None for every row of the batch.
    """

    level: Level
    share: int
    members: Tensor | None
    ends: Mapping[int, Sequence[int] | None]


class Fills:
    """The fills of one state that are due.

    They run before the next token, which a step of some implementations begins with by itself, so
    that a token can be taken back by the inputs that it overwrote. A launch that fails changes
    nothing and stays due.

    stream: the side stream that fills are launched on right after a token's last layer, beside what
    follows it; until the next token it holds what they changed. None, the current stream.
    """

    def __init__(
        self, state: StreamState, implementation: Implementation, stream: torch.cuda.Stream | None
    ) -> None:
        self.stream = stream
        self._state, self._implementation = state, implementation
        self._run_due = implementation.make_due_fills(state)
        #: Whether the fills of a token have to be named here by ``owe``.
        self.launched_here = self._run_due is None
        self._batch_size = state.positions.shape[0]
        self._owed: list[_Work] = []
        self._before: list[tuple[list[Tensor], list[Tensor]]] = []  # of this token's: was, is
        self._running = False
        if stream is not None:  # the memory is not reused before fills are done with it
            for tensor in (
                state.ring, state.open_block, state.kept, state.spectra, state.positions,
            ):  # fmt: skip
                tensor.record_stream(stream)

    @property
    def nbytes(self) -> int:
        """Bytes of rows that fills are due in, and of before-images outside the state."""
        held = storages(x for was, _ in self._before for x in was)
        held.pop(self._state.images.untyped_storage().data_ptr(), None)
        return sum((held | storages(work.members for work in self._owed)).values())

    def owe_all(self, position: int) -> None:
        """What is due after the step at a position that all rows are at."""
        plan = self._state.plan
        if (position + 1) % plan.base == 0 or plan.slack_from is not None:
            for index, share in plan.work_at(position):
                level = plan.levels[index]
                end = (position + 1) // level.block * level.block
                self._owed.append(_Work(level, share, None, {end: None}))

    def owe(self, rows: Iterable[int], positions: Mapping[int, int] | Sequence[int]) -> None:
        """What is due after a step of some rows.

        rows: that made it; -1 is padding. positions: of every row where it made it.
        """
        due: dict[tuple[int, int], list[int]] = {}
        plan = self._state.plan
        for row in rows:
            for work in plan.work_at(positions[row]) if row >= 0 else ():
                due.setdefault(work, []).append(row)
        owed = []
        for (number, share), members in sorted(due.items(), reverse=True):  # largest blocks first
            level, on_device = plan.levels[number], None
            ends: dict[int, list[int]] = {}
            for row in members:
                end = (positions[row] + 1) // level.block * level.block
                ends.setdefault(end, []).append(row)
            if len(members) < self._batch_size:
                on_device = torch.tensor(members, device=self._state.ring.device)
            owed.append(_Work(level, share, on_device, ends))
        self._owed += owed

    def launch(self) -> None:
        """Run everything that is due."""
        if self._run_due is not None:
            self._run_due()
        while self._owed:
            self._on_its_stream(self._owed[0])
            del self._owed[0]

    def join(self) -> None:
        """Nothing is due, and later launches on the current stream wait for the fills."""
        self.launch()
        self._wait()
        self._before.clear()

    def take_back(self) -> None:
        """The newest token is taken back: what it owed is not due, what has run is undone."""
        self._wait()
        self._owed.clear()
        while self._before:
            copy(*self._before[-1])
            del self._before[-1]

    def _wait(self) -> None:
        if self._running and self.stream is not None:
            torch.cuda.current_stream(self._state.ring.device).wait_stream(self.stream)
            self._running = False

    def _on_its_stream(self, work: _Work) -> None:
        if self.stream is None:
            self._fill(work)
            return
        if work.members is not None:
            work.members.record_stream(self.stream)
        self.stream.wait_stream(torch.cuda.current_stream(self._state.ring.device))
        self._running = True
        with torch.cuda.stream(self.stream):
            self._before.append(self._fill(work))

    def _fill(self, work: _Work) -> tuple[list[Tensor], list[Tensor]]:
        """Returns what the fill changed, as it was and where it is."""
        state, level, share = self._state, work.level, work.share
        was: list[Tensor] = []
        now: list[Tensor] = []
        lanes = lanes_of_share(state, level, share)
        try:
            for end, rows in work.ends.items():
                here = views(changed(state, level, end), rows, lanes)
                image = views(kept_image(state, level, end), rows)
                image = image or [torch.empty_like(x) for x in here]
                copy(here, image)
                was += image
                now += here
                if state.narrow:
                    block = state.open_block
                    blocks = [block] if rows is None else [block[:, row] for row in rows]
                    was += [x.clone() for x in blocks]
                    now += blocks
                    turn(state, rows, end)
            if level.steps:
                self._implementation.fill_share(state, level, work.members, share, share + 1)
            else:
                self._implementation.fill(state, level, work.members)
        except BaseException:
            copy(was, now)
            raise
        return was, now
