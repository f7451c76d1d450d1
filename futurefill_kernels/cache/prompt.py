"""Many tokens at once: a prompt before the stream, or a chunk inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..implementations.base import Implementation, PromptKernels
from ..implementations.gpu_prompt_by_fft import prompt_by_fft
from ..state.convolve import fast_conv_range
from ..state.filters import FilterBank
from ..state.layout import from_tiles, to_tiles
from ..state.tensors import StreamState
from .chunk import Chunks, NextInput, steps_are_cheaper
from .memory import storages
from .open_prompt import OpenPrompt, Taps
from .replay import move_rows
from .rows import forget
from .used import used_slots


@dataclass(frozen=True)
class Call:
    """One layer's tokens of a ``prefill`` call.

    rows: R rows of the batch. lengths: valid positions of each right-padded row, at least 1.
    u, pre, post: (R, D, P).
    """

    layer: int
    rows: list[int]
    lengths: list[int]
    u: Tensor
    pre: Tensor | None
    post: Tensor | None

    def part(self, members: slice | list[int]) -> Call:
        """The same call of some of the R rows; a slice copies nothing, nor does all in order."""
        everyone = range(len(self.rows))
        chosen = everyone[members] if isinstance(members, slice) else members
        if list(chosen) == list(everyone):
            return self
        return replace(
            self,
            rows=[self.rows[r] for r in chosen],
            lengths=[self.lengths[r] for r in chosen],
            u=self.u[members],
            pre=None if self.pre is None else self.pre[members],
            post=None if self.post is None else self.post[members],
        )


class Prefill:
    """Many tokens of one state at once, and what is held of prompts that more calls may continue.

    filters: the taps of all layers.
    """

    def __init__(self, state: StreamState, implementation: Implementation) -> None:
        self._state, self._implementation = state, implementation
        self.filters: FilterBank = state.prepared.bank
        # per row that waits for its first step, and layer, the gated inputs (D, P) so far
        self._held: dict[int, list[Tensor | None]] = {}
        # rows whose tensors are of an earlier stream, and the slots that it used: a prompt writes
        # over them, a step needs zeros
        self._stale: dict[int, int] = {}
        self._chunks = Chunks(state, implementation)
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

    def nbytes(self, before: Mapping[int, list[Tensor | None]]) -> int:
        """Bytes that are held of prompts until their rows' first steps.

        before: what `held` returned and is held too.
        """
        held = storages(x for past in (*self._held.values(), *before.values()) for x in past)
        grown = storages(stream.held for stream in self._open.values())
        return sum((held | grown).values()) + sum(taps.nbytes for taps in self._taps)

    @property
    def chunks_nbytes(self) -> int:
        """Bytes that positions inside the stream have left beside the state."""
        return self._chunks.nbytes

    def in_prompt(self, row: int) -> bool:
        """Whether the row still waits for its first step."""
        return row in self._held

    @property
    def waiting(self) -> bool:
        """Whether any row waits for its first step."""
        return bool(self._held)

    def used(self, row: int, place: int) -> int:
        """Slots of a row's ring that may not be zero. place: where its position is."""
        if row in self._stale:
            return self._stale[row]
        prompted = row in self.forgotten or any(x is not None for x in self._held.get(row, ()))
        plan = self._state.plan
        return plan.slots if prompted else used_slots(plan, place)

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
        found = {row: self._stale[row] for row in rows if row in self._stale} if self._stale else {}
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

    def held(self, rows: Iterable[int]) -> dict[int, list[Tensor | None]]:
        """What is held of the rows' prompts, for ``take_back``."""
        return {row: list(self._held[row]) for row in rows if row in self._held}

    def reopen(self, held: dict[int, list[Tensor | None]]) -> None:
        """Rows wait for their first step again; ``held`` is what it was when they were closed."""
        self._held.update(held)
        self.forgotten -= held.keys()

    def refilter(self) -> None:
        """Other filters read what is held of prompts."""
        self._unfilled |= {row for row, past in self._held.items() if past[0] is not None}

    @property
    def starts(self) -> Mapping[int, int]:
        """Where in the state the rows were that the newest call stepped."""
        return self._chunks.starts

    def begin(self) -> None:
        """A new call or token: the call before is not going to be taken back."""
        self._chunks.begin()

    def finish(self, ends: Mapping[int, int]) -> list[int]:
        """After a call's last layer: rows inside the stream stand at their ends.

        Returns those whose fills are due there.
        """
        stepped = self._chunks.finish(ends)
        self._replay({row: end for row, end in ends.items() if row not in stepped})
        return stepped

    def take_back(self, held: dict[int, list[Tensor | None]], positions: Mapping[int, int]) -> None:
        """The newest call is taken back: rows wait for a prompt again of which only ``held`` has
        come, those inside the stream are at positions again.
        """
        stepped = self._chunks.take_back()
        if self._state.prompt_fill is not None:  # else nothing else has changed
            self._replay({row: p for row, p in positions.items() if row not in stepped})
        for row, inputs in held.items():
            self._held[row] = list(inputs)
            if inputs[0] is None:
                self._stale[row] = self._state.plan.slots
            else:
                self._unfilled.add(row)

    def reorder(self, rows: Sequence[int]) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was. None is stale."""
        self.begin()
        held, unfilled = self._held, self._unfilled
        self._held = {b: list(held[old]) for b, old in enumerate(rows) if old in held}
        self._unfilled = {b for b, old in enumerate(rows) if old in unfilled}
        self.forgotten = {b for b, old in enumerate(rows) if old in self.forgotten}
        for b, old in enumerate(rows):
            if b != old:
                self._drop_stream(b)

    def clone(self, state: StreamState) -> Prefill:
        """The same for a cloned state."""
        other = Prefill(state, self._implementation)
        other._held = {row: list(x) for row, x in self._held.items()}
        other._stale, other._unfilled = dict(self._stale), set(self._unfilled)
        other.forgotten = set(self.forgotten)
        return other

    def tokens(self, call: Call, positions: Sequence[int]) -> Tensor:
        """Outputs of a call, rows in their prompt or anywhere in the stream.

        positions: (B,) of all rows. Returns y (R, D, P) like u, contiguous. Pending outputs of rows
        that are in the stream may be stale until ``finish``.
        """
        if call.layer == 0 and self._stale:  # a prompt writes all that is read of its rows
            for row in self._held.keys() & set(call.rows):
                self._stale.pop(row, None)
        groups: dict[int | None, list[int]] = {}
        _, seen = self._earlier(call)
        if len(seen) == 1 and seen[0] > call.u.shape[2]:
            return self._by_torch(call, self._continue).to(call.u.dtype)
        y = torch.empty(call.u.shape, dtype=call.u.dtype, device=call.u.device)
        for r, row in enumerate(call.rows):
            if seen[r] > call.u.shape[2]:
                one = call.part([r])
                y[r : r + 1] = self._by_torch(one, self._continue).to(y.dtype)
            else:  # a call as long as what came before costs least as a part of the whole
                groups.setdefault(None if row in self._held else positions[row], []).append(r)
        kernels = self._implementation.prompt_kernels()
        stepped: list[int] = []
        for position, members in groups.items():
            if position is None and kernels is not None:
                for here in _runs(members):
                    self._prompt_between_kernels(call.part(here), y[here], kernels)
            elif position is not None and self._by_steps(len(members), position, y.shape[2]):
                stepped += members
            else:
                run = self._prompt if position is None else partial(self._chunk, position)
                y[members] = self._by_torch(call.part(members), run).to(y.dtype)
        if stepped:
            part = call.part(stepped)
            starts = {row: positions[row] for row in part.rows}
            y[stepped] = self._chunks.run(
                part.layer, starts, part.lengths, part.u, part.pre, part.post
            )
        return y

    def steps(self, call: Call, positions: Sequence[int]) -> Tensor:
        """The same of rows inside the stream by steps, whatever is cheaper; not where slack has
        transforms under way that are of several layers.
        """
        if self._state.plan.slack_from is not None and len(self.filters) > 1:
            return self.tokens(call, positions)
        starts = {row: positions[row] for row in call.rows}
        y = self._chunks.run(call.layer, starts, call.lengths, call.u, call.pre, call.post)
        return y.contiguous()

    def generate(
        self, u_t: Tensor, steps: int, next_input: NextInput, positions: Sequence[int]
    ) -> Tensor:
        """Inputs (B, D, steps) that follow u_t, as `Chunks.generate`; all rows are in the stream.

        positions: (B,) of all rows.
        """
        new = self._chunks.generate(dict(enumerate(positions)), u_t, steps, next_input)
        return new.contiguous()

    def _by_steps(self, rows: int, position: int, width: int) -> bool:
        """Whether positions inside the stream are taken as steps; a transform needs the prompts'
        fill, and what slack has under way is of all layers.
        """
        state = self._state
        if state.prompt_fill is None:
            return True
        return state.plan.slack_from is None and steps_are_cheaper(state, rows, position, width)

    def _replay(self, targets: Mapping[int, int]) -> None:
        """Rows whose inputs are stored to positions, by the prompts' fill."""
        if targets:
            assert self._state.prompt_fill is not None
            move_rows(self._state, self._implementation, targets, self._state.prompt_fill)

    def _prompt_between_kernels(self, call: Call, y: Tensor, kernels: PromptKernels) -> None:
        """Tokens that continue the rows' prompts, by torch.fft between two kernels, into y."""
        earlier, seen = self._earlier(call)
        width = max(seen) + call.u.shape[2]
        held = torch.empty(*y.shape[:2], width, dtype=torch.float32, device=y.device)
        for r, past in enumerate(earlier):
            if past is not None:
                held[r, :, : seen[r]] = past
        prompt_by_fft(
            self._state, self.filters.layer(call.layer), call.u, call.pre, call.post, y, held, seen,
            call.lengths, call.layer, call.rows, *kernels,
        )  # fmt: skip
        if not bool(y.sum(dtype=torch.float32).isfinite()):
            y.copy_(self._by_torch(call, self._prompt))  # keeps a NaN where it belongs
            return
        # only now: a call that runs out of memory can be repeated
        self._hold(call, held, [s + n for s, n in zip(seen, call.lengths, strict=True)])

    def _by_torch(self, call: Call, run: Callable[[Call, Tensor], Tensor]) -> Tensor:
        """Outputs of a call with gates and skip. run: the convolution of its gated inputs."""
        skip, width = self._state.skip, call.u.shape[2]
        x = call.u.to(self._state.ring.dtype)
        if call.pre is not None:
            x = x * call.pre
        if min(call.lengths) < width:
            lengths = torch.tensor(call.lengths, device="cpu")
            inside = torch.arange(width, device="cpu") < lengths[:, None]
            x = x.where(inside[:, None].to(x.device), 0)  # whatever the padding holds
        y = run(call, x)
        if skip is not None:
            y += skip[call.layer, : x.shape[1], None] * x
        return y if call.post is None else y * call.post

    def _prompt(self, call: Call, x: Tensor) -> Tensor:
        """Outputs of gated inputs x (R, D, P) that continue the rows' prompts."""
        earlier, seen = self._earlier(call)
        width, first = x.shape[2], min(seen)
        whole = x
        if any(seen):
            whole = x.new_zeros(*x.shape[:2], max(seen) + width)
            for r, past in enumerate(earlier):
                if past is not None:
                    whole[r, :, : seen[r]] = past
                whole[r, :, seen[r] : seen[r] + width] = x[r]
        ends = [s + n for s, n in zip(seen, call.lengths, strict=True)]
        outputs = self._whole_prompt(call, whole, ends, first)
        self._hold(call, whole, ends)
        if not any(seen):
            return outputs
        return torch.stack(
            [outputs[r, :, s - first : s - first + width] for r, s in enumerate(seen)]
        )

    def _whole_prompt(self, call: Call, x: Tensor, ends: list[int], first: int) -> Tensor:
        """Outputs from position ``first`` on; leaves the prompts' future fill in the state.

        x: (R, D, P) gated inputs since the prompts' starts, zero from each row's end on.
        first: before every end. Returns (R, D, P - first). One FFT convolution, O(P log P) time;
        nothing of size P stays in the state.
        """
        state, total, length = self._state, x.shape[2], self._state.plan.slots
        result = fast_conv_range(x, self.filters.layer(call.layer), first, total + length)
        for r, (row, end) in enumerate(zip(call.rows, ends, strict=True)):
            filled = result[r, :, end - first : end - first + length]
            pending = to_tiles(filled, state.layout)
            state.ring[call.layer, row, :, :length] = pending
            if state.prompt_fill is not None:
                state.prompt_fill[call.layer, row] = pending
        return result[..., : total - first]

    def _continue(self, call: Call, x: Tensor) -> Tensor:
        """Outputs of one row whose prompt goes on. x: (1, D, P) gated inputs -> (1, D, P)."""
        (row,), (n,), layer = call.rows, call.lengths, call.layer
        held = self._held[row][layer]
        assert held is not None
        stream = self._open.pop((row, layer), None)  # not there if something fails inside
        if stream is None or stream.held is not held:
            stream = OpenPrompt(held, self._taps[layer])
        self._unfilled.add(row)
        y = stream.more(x[0, :, :n])[None]
        if bool(y.sum().isfinite()):
            self._open[row, layer] = stream
        else:  # something is NaN: what the stream would spread is done without it, and again later
            begin, end = held.shape[1], held.shape[1] + n
            whole = stream.held[None]
            y = fast_conv_range(whole, self.filters.layer(layer), begin, end)
        self._held[row][layer] = stream.held
        return y if n == x.shape[2] else pad(y, (0, x.shape[2] - n))

    def _fill(self, row: int) -> None:
        """What a row's prompt adds to each position, into the state."""
        state, length = self._state, self._state.plan.slots
        for layer, x in enumerate(self._held[row]):
            if x is not None:
                end = x.shape[1]
                filled = fast_conv_range(x[None], self.filters.layer(layer), end, end + length)
                pending = to_tiles(filled[0], state.layout)
                state.ring[layer, row, :, :length] = pending
                if state.prompt_fill is not None:
                    state.prompt_fill[layer, row] = pending

    def _drop_stream(self, row: int) -> None:
        """Of a row's open prompts only their inputs are needed any more."""
        for layer in range(len(self.filters)):
            self._open.pop((row, layer), None)
        if not self._open:
            for taps in self._taps:
                taps.free()

    def _chunk(self, position: int, call: Call, x: Tensor) -> Tensor:
        """Outputs of positions inside the stream, from everything that the rows have seen.

        x: (R, D, P) gated inputs from ``position`` on; they are stored. Returns (R, D, P).
        """
        state, layer, rows = self._state, call.layer, call.rows
        stop = position + max(call.lengths)  # padding may reach behind the stream's end
        given = x[..., : stop - position]
        state.ring[layer, rows, :, position:stop] = to_tiles(given, state.layout)
        inputs = from_tiles(state.ring[layer, rows, :, :stop], state.layout)
        assert state.prompt_fill is not None
        filled = from_tiles(state.prompt_fill[layer, rows, :, position:stop], state.layout)
        y = filled + fast_conv_range(inputs, self.filters.layer(layer), position, stop)
        return pad(y, (0, x.shape[2] - given.shape[2]))

    def _earlier(self, call: Call) -> tuple[list[Tensor | None], list[int]]:
        """What is held of each row's prompt, and how many positions that are."""
        held = self._held
        earlier = [held[row][call.layer] if row in held else None for row in call.rows]
        return earlier, [0 if past is None else past.shape[1] for past in earlier]

    def _hold(self, call: Call, inputs: Tensor, ends: list[int]) -> None:
        """Keep each row's gated inputs up to its end. inputs: (R, D, P)."""
        for r, row in enumerate(call.rows):
            self._held[row][call.layer] = inputs[r, :, : ends[r]]
            self._unfilled.discard(row)


def _runs(members: list[int]) -> list[slice]:
    """Ascending indices as slices without gaps."""
    runs: list[slice] = []
    for r in members:
        if runs and runs[-1].stop == r:
            runs[-1] = slice(runs[-1].start, r + 1)
        else:
            runs.append(slice(r, r + 1))
    return runs
