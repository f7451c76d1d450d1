"""What is held of prompts until their rows' first steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..state.convolve import fast_conv_range, slots_conv_range
from ..state.filters import FilterBank
from ..state.layout import to_tiles
from ..state.open_block import open_at
from ..state.tensors import StreamState
from .call import Call
from .memory import storages
from .open_prompt import Inputs, OpenPrompt, Past, Taps, length_of
from .rows import forget
from .used import used_slots


class HeldPrompts:
    """Gated inputs of the prompts of one state, and the streams of those that come in many calls.

    filters: the taps of all layers.
    """

    def __init__(self, state: StreamState) -> None:
        self._state = state
        self.filters: FilterBank = state.prepared.bank
        # per row that waits for its first step, and layer, the gated inputs so far
        self._held: dict[int, list[Past | None]] = {}
        # rows whose tensors are of an earlier stream, and the slots that it used: a prompt writes
        # over them, a step needs zeros
        self._stale: dict[int, int] = {}
        #: Rows in the stream whose prompts' inputs are not there any more.
        self.forgotten: set[int] = set()
        # rows whose prompts' fill is not in the state yet
        self._unfilled: set[int] = set()
        # per row and layer of those that came in many calls
        self._open: dict[tuple[int, int], OpenPrompt] = {}
        self._taps = [
            Taps(self.filters.stored(layer), self.filters.dtype)
            for layer in range(len(self.filters))
        ]

    def nbytes(self, before: Mapping[int, list[Past | None]]) -> int:
        """Bytes that are held of prompts until their rows' first steps.

        before: what `held` returned and is held too.
        """
        layers = (x for past in (*self._held.values(), *before.values()) for x in past)
        inputs = storages(x.slots.tensor if isinstance(x, Inputs) else x for x in layers)
        kept = sum(stream.kept_nbytes for stream in self._open.values())
        return sum(inputs.values()) + kept + sum(taps.nbytes for taps in self._taps)

    def in_prompt(self, row: int) -> bool:
        """Whether the row still waits for its first step."""
        return row in self._held

    @property
    def waiting(self) -> int:
        """How many rows wait for their first step."""
        return len(self._held)

    def used(self, row: int, place: int) -> int:
        """Slots of a row's ring that may not be zero. place: where its position is."""
        if row in self._stale:
            return self._stale[row]
        plan, held = self._state.plan, self._held.get(row)
        if row in self.forgotten or (held and any(x is not None for x in held)):
            return plan.slots
        return used_slots(plan, place)

    def open(self, rows: Iterable[int], stale: Mapping[int, int]) -> None:
        """The rows wait for a prompt; nothing of it has come.

        stale: slots of rows in which the state may hold something, which a prompt or ``clean``
        removes.
        """
        for row in rows:
            self._held[row] = [None] * len(self.filters)
            self._drop_stream(row)
            self._unfilled.discard(row)
            self.forgotten.discard(row)
            self._stale |= {row: stale[row]} if row in stale else {}

    def close(self, rows: Iterable[int]) -> None:
        """The rows' prompts are over."""
        if not self._held:
            return
        closed = [row for row in rows if row in self._held]
        self.clean(closed)
        for row in closed:
            if self._held[row][0] is not None:
                self.forgotten.add(row)
            del self._held[row]
            self._drop_stream(row)

    def clean(self, rows: Iterable[int]) -> None:
        """Nothing of an earlier stream is left in the rows, and what their prompts add is there."""
        unfilled = self._unfilled.intersection(rows) if self._unfilled else ()
        for row in sorted(unfilled):
            self._fill(row)
        self._unfilled -= set(unfilled)
        self.freshen(rows)

    def freshen(self, rows: Iterable[int]) -> None:
        """Nothing of an earlier stream is left in the rows."""
        if not self._stale:
            return
        found = {row: self._stale[row] for row in rows if row in self._stale}
        forget(self._state, found)
        for row in found:
            del self._stale[row]

    def replaced(self) -> None:
        """The whole state was written from elsewhere: no row waits for a prompt, none is stale."""
        for row in list(self._held):
            self._drop_stream(row)
        self._held.clear()
        self._stale.clear()
        self._unfilled.clear()
        self.forgotten = set(range(len(self._state.positions)))

    def held(self, rows: Iterable[int]) -> dict[int, list[Past | None]]:
        """What is held of the rows' prompts, for ``take_back``."""
        return {row: list(self._held[row]) for row in rows if row in self._held}

    def of_layer(self, rows: Iterable[int], layer: int) -> dict[int, Past | None]:
        """The same of one layer, for ``put_back``."""
        return {row: self._held[row][layer] for row in rows if row in self._held}

    def put_back(self, held: Mapping[int, Past | None], layer: int) -> None:
        """A layer of the newest call is taken back: only ``held`` of it has come."""
        for row, past in held.items():
            self._held[row][layer] = past
            if past is not None:
                self._unfilled.add(row)

    def reopen(self, held: dict[int, list[Past | None]]) -> None:
        """Rows wait for their first step again; ``held`` is what it was when they were closed."""
        self._held.update(held)
        self.forgotten -= held.keys()

    def refilter(self) -> None:
        """Other filters read what is held of prompts."""
        self._unfilled |= {row for row, past in self._held.items() if past[0] is not None}

    def come_back(self, held: Mapping[int, list[Past | None]]) -> None:
        """The rows wait for a prompt again of which only ``held`` has come."""
        for row, inputs in held.items():
            self._held[row] = list(inputs)
            if inputs[0] is None:
                self._stale[row] = self._state.plan.slots
            else:
                self._unfilled.add(row)

    def reorder(self, rows: Sequence[int]) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was. None is stale."""
        if self.forgotten:
            self.forgotten = {b for b, old in enumerate(rows) if old in self.forgotten}
        if not self._held:
            return
        held, unfilled = self._held, self._unfilled
        self._held = {b: list(held[old]) for b, old in enumerate(rows) if old in held}
        self._unfilled = {b for b, old in enumerate(rows) if old in unfilled}
        for b, old in enumerate(rows):
            if b != old:
                self._drop_stream(b)

    def copy_to(self, other: HeldPrompts) -> None:
        """Another, of a copy of the state, holds the same."""
        other._held = {row: list(x) for row, x in self._held.items()}
        other._stale, other._unfilled = dict(self._stale), set(self._unfilled)
        other.forgotten = set(self.forgotten)

    def earlier(self, call: Call) -> tuple[list[Past | None], list[int]]:
        """What is held of each row's prompt, and how many positions that are."""
        held = self._held
        earlier = [held[row][call.layer] if row in held else None for row in call.rows]
        return earlier, [0 if past is None else length_of(past) for past in earlier]

    def hold(self, call: Call, inputs: Tensor, ends: list[int]) -> None:
        """Keep each row's gated inputs up to its end. inputs: (R, D, P)."""
        for r, row in enumerate(call.rows):
            self._held[row][call.layer] = inputs[r, :, : ends[r]]
            self._unfilled.discard(row)

    def go_on(self, call: Call, x: Tensor) -> Tensor:
        """Outputs of rows whose prompts go on. x: (R, D, P) gated inputs -> (R, D, P)."""
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        layer, (_, channels, width) = call.layer, x.shape
        for r, (row, n) in enumerate(zip(call.rows, call.lengths, strict=True)):
            held = self._held[row][layer]
            assert held is not None
            stream = self._open.pop((row, layer), None)  # not there if something fails inside
            if stream is None or stream.held is not held:
                stream = OpenPrompt(held, self._taps[layer], channels)
            self._unfilled.add(row)
            given, here = (x[r], y[r]) if n == width else (x[r, :, :n], y[r, :, :n])
            if stream.more(given, here):
                self._open[row, layer] = stream
            else:  # what a NaN would spread over is done without it, and again later
                end = stream.held.length
                here.copy_(self._convolved(layer, stream.held, end - n, end))
            self._held[row][layer] = stream.held
            if n < width:
                y[r, :, n:] = 0
        return y

    def _fill(self, row: int) -> None:
        """What a row's prompt adds to each position, into the state."""
        length = self._state.plan.slots
        for layer, held in enumerate(self._held[row]):
            if held is None:
                continue
            stream = self._open.pop((row, layer), None)
            filled = stream.future(length) if stream is not None and stream.held is held else None
            if filled is None:
                end = length_of(held)
                filled = self._convolved(layer, held, end, end + length)
            self._write_fill(layer, row, filled)

    def _write_fill(self, layer: int, row: int, filled: Tensor) -> None:
        """What a row's prompt adds to each position is pending. filled: (D, N)."""
        state, pending = self._state, to_tiles(filled, self._state.layout)
        state.ring[layer, row, :, : state.plan.slots] = pending
        if state.narrow:
            open_at(state, [row], 0, layer)
        if state.prompt_fill is not None:
            state.prompt_fill[layer, row] = pending

    def _convolved(self, layer: int, past: Past, start: int, stop: int) -> Tensor:
        """Outputs (D, stop - start) of a row's inputs, zero after their end."""
        h = self.filters.layer(layer)
        if isinstance(past, Inputs):
            return slots_conv_range(past.taken, self._state.channels, h, start, stop)
        return fast_conv_range(past[None], h, start, stop)[0]

    def _drop_stream(self, row: int) -> None:
        """Of a row's open prompts only their inputs are needed any more."""
        for layer in range(len(self.filters)):
            self._open.pop((row, layer), None)
        if not self._open:
            for taps in self._taps:
                taps.free()
