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
from .open_inputs import Inputs, Past, length_of
from .open_prompt import OpenPrompt
from .open_prompts import OpenPrompts
from .open_taps import Taps
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
        self._open = OpenPrompts()
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
        spectra = sum(taps.nbytes for taps in self._taps)
        return sum(inputs.values()) + self._open.kept_nbytes + spectra

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
        unfilled = self._unfilled.intersection(rows) if self._unfilled else None
        if unfilled:
            self._fill(sorted(unfilled))
            self._unfilled -= unfilled
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
        layer, width = call.layer, x.shape[2]
        self._unfilled.update(call.rows)
        if min(call.lengths) == width:
            held = [self._held[row][layer] for row in call.rows]
            whole = self._open.take_whole(layer, call.rows, held)
            if whole is not None:
                self._advance(whole, layer, call.rows, x, y)
                return y
        places = {row: r for r, row in enumerate(call.rows)}
        for stream, rows in self._streams(call):
            members = [places[row] for row in rows]
            n = call.lengths[members[0]]
            side_by_side = members == list(range(members[0], members[0] + len(members)))
            here = slice(members[0], members[-1] + 1) if side_by_side else members
            given, out = x[here, :, :n], y[here, :, :n]  # views where rows lie side by side
            self._advance(stream, layer, rows, given, out)
            if not side_by_side:
                y[here, :, :n] = out
            if n < width:
                y[here, :, n:] = 0
        return y

    def _streams(self, call: Call) -> list[tuple[OpenPrompt, list[int]]]:
        """Streams of a call's rows, and the rows of each, which are not among the open ones until
        they are put back.
        """
        layer, lengths = call.layer, dict(zip(call.rows, call.lengths, strict=True))
        held = {row: past for row in call.rows if (past := self._held[row][layer]) is not None}
        streams, alone = self._open.take(layer, held, call.lengths)
        starting: dict[tuple[int, int], list[int]] = {}
        for row in alone:
            starting.setdefault((length_of(held[row]), lengths[row]), []).append(row)
        for rows in starting.values():
            pasts = [held[row] for row in rows]
            streams.append((OpenPrompt(pasts, self._taps[layer], call.u.shape[1]), rows))
        return streams

    def _advance(
        self, stream: OpenPrompt, layer: int, rows: Sequence[int], x: Tensor, y: Tensor
    ) -> None:
        """Outputs y of the next gated inputs x (R, D, n) of a stream's rows."""
        finite = stream.more(x, y)
        if all(finite):
            self._open.put(layer, rows, stream)
        else:  # what a NaN would spread over is done without it, and again later
            for k, one in enumerate(stream.apart()):
                if finite[k]:
                    self._open.put(layer, [rows[k]], one)
                else:
                    end = stream.held[k].length
                    start = end - x.shape[2]
                    y[k] = self._convolved(layer, [stream.held[k]], start, end)[0]
        for row, held in zip(rows, stream.held, strict=True):
            self._held[row][layer] = held

    def _fill(self, rows: Sequence[int]) -> None:
        """What the prompts of rows add to each position, into the state."""
        length = self._state.plan.slots
        for layer in range(len(self.filters)):
            held = {row: past for row in rows if (past := self._held[row][layer]) is not None}
            streams, alone = self._open.take(layer, held, [length] * len(held))
            for stream, together in streams:
                filled = stream.future(length)
                if filled is None:
                    end = length_of(held[together[0]])
                    pasts = [held[row] for row in together]
                    filled = self._convolved(layer, pasts, end, end + length)
                for row, pending in zip(together, filled, strict=True):
                    self._write_fill(layer, row, pending)
            for row in alone:
                end = length_of(held[row])
                filled = self._convolved(layer, [held[row]], end, end + length)
                self._write_fill(layer, row, filled[0])

    def _write_fill(self, layer: int, row: int, filled: Tensor) -> None:
        """What a row's prompt adds to each position is pending. filled: (D, N)."""
        state, pending = self._state, to_tiles(filled, self._state.layout)
        state.ring[layer, row, :, : state.plan.slots] = pending
        if state.narrow:
            open_at(state, [row], 0, layer)
        if state.prompt_fill is not None:
            state.prompt_fill[layer, row] = pending

    def _convolved(self, layer: int, pasts: Sequence[Past], start: int, stop: int) -> Tensor:
        """Outputs (R, D, stop - start) of rows' inputs of one length, zero after their end.

        pasts: of one row, or all inputs of a stream.
        """
        h, first = self.filters.layer(layer), pasts[0]
        if isinstance(first, Inputs):
            slots = first.taken if len(pasts) == 1 else first.slots.tensor[:, :, : first.length]
            return slots_conv_range(slots, self._state.channels, h, start, stop)
        return fast_conv_range(first[None], h, start, stop)

    def _drop_stream(self, row: int) -> None:
        """Of a row's open prompts only their inputs are needed any more."""
        self._open.drop(row, len(self.filters))
        if not self._open:
            for taps in self._taps:
                taps.free()
