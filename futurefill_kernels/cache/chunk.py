"""Positions inside the stream whose inputs are known, or made of the outputs before them: steps of
one layer after the other.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..implementations.base import Implementation, PlainSteps, Run, Step
from ..state.tensors import StreamState
from .fills import Fills
from .history import History
from .images import copy, newest_slot
from .window import copy_end, stand_at_first

#: How an output becomes the next input where no Python does it.
NextInput = Literal["identity", "relu"]

#: Steps between two looks at Ctrl-C.
TOKENS = 256

#: What a step takes beyond its arithmetic, in operations that the device does meanwhile.
_STEP_OVERHEAD = {"cpu": 2e4, "cuda": 1e8}


def steps_are_cheaper(state: StreamState, rows: int, position: int, width: int) -> bool:
    """Whether that many steps of rows at a position take less than one transform of all inputs."""
    channels, total = rows * state.channels, position + 2 * width
    overhead = _STEP_OVERHEAD.get(state.ring.device.type, 0.0)
    steps = width * (state.plan.flops_per_token * channels + overhead)
    return steps < 7.5 * total * math.log2(total) * channels  # three real transforms of it, padded


class _Granted:
    """Books of steps that Python has checked; compiled code counts ``plain`` down."""

    def __init__(self) -> None:
        self.plain, self.layer, self.open = sys.maxsize, 0, True


@dataclass(frozen=True)
class _Layer:
    """One layer as a stream of its own, bound once. plain: where it goes in blocks."""

    state: StreamState
    step: Step
    run: Run | None
    history: History
    fills: Fills
    plain: PlainSteps | None

    def begin(self, whole: StreamState) -> None:
        """It is where the stream of all layers is."""
        self.fills.take_back()
        self.history.drop()
        self.state.positions.copy_(whole.positions)
        self.state.filled.copy_(whole.filled)

    def take_back(self, starts: Sequence[int]) -> None:
        """A block in compiled code, if it has run. starts: of all rows the positions before it."""
        if self.plain is not None and self.state.positions.tolist() != starts:
            self.plain.take_back()


class _Tokens(NamedTuple):
    """Inputs, gates and outputs of steps: (n, R, D), contiguous."""

    u: Tensor
    pre: Tensor | None
    post: Tensor | None
    y: Tensor

    def part(self, start: int, stop: int) -> _Tokens:
        """Some of the steps, without a copy."""
        return _Tokens(*(None if x is None else x[start:stop] for x in self))  # type: ignore[arg-type]


class Chunks:
    """Steps of one layer at a time. Every layer's own fills follow its own steps, so state and
    outputs are those of single tokens bit for bit; positions advance after the last layer.

    Of a plan with slack only the steps of one layer: what is under way is of all layers, and it is
    built again from the inputs rather than kept, to take steps back.
    """

    def __init__(self, state: StreamState, implementation: Implementation) -> None:
        self._state, self._implementation = state, implementation
        self._everyone = list(range(state.positions.shape[0]))
        self._has_slack = state.plan.slack_from is not None
        self._layers: dict[tuple[int, torch.dtype], _Layer] = {}  # a step keeps to one dtype
        # of the newest call, by layer: what its steps changed, as it was, and what takes them back
        self._before: dict[int, list[Tensor]] = {}
        self._back: dict[int, Callable[[], None]] = {}
        #: Positions of the rows that the newest call stepped, before it.
        self.starts: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of what the newest call may be taken back by, and of the layers' own positions."""
        states = [own.state for own in self._layers.values()]
        own = sum(state.positions.nbytes + state.filled.nbytes for state in states)
        plain = [layer.plain for layer in self._layers.values() if layer.plain is not None]
        kept = sum(steps.kept_bytes() for steps in plain)
        return own + kept + sum(x.nbytes for saved in self._before.values() for x in saved)

    def begin(self) -> None:
        """A new call: the one before is not going to be taken back."""
        self._before.clear()
        self._back.clear()
        self.starts = {}

    def run(
        self,
        layer: int,
        starts: Mapping[int, int],
        lengths: Sequence[int],
        u: Tensor,
        pre: Tensor | None,
        post: Tensor | None,
    ) -> Tensor:
        """Outputs (R, D, P) of u (R, D, P), gates alike.

        starts: of R rows their positions, in the order of u. lengths: (R,), at least 1; outputs
        after them are zero. No fill is due.
        """
        self._take_layer_back(layer)
        own = self._layer(layer, u.dtype)
        if own.plain is not None and self._all_inside(starts, lengths, u.shape[2]):
            own.begin(self._state)
            self.starts |= starts
            # before it has run: an interrupt may follow at once
            self._back[layer] = partial(own.take_back, list(starts.values()))
            y = own.plain.run(u, pre, post)
            if y is not None:
                return y
            del self._back[layer]
        x = _by_token(u)
        before = None if pre is None else _by_token(pre)
        after = None if post is None else _by_token(post)
        tokens = _Tokens(x, before, after, torch.empty_like(x))
        with self._saved(layer, starts, lengths):
            self._run(layer, starts, lengths, tokens)
        return tokens.y.permute(1, 2, 0)

    def generate(
        self, starts: Mapping[int, int], u_t: Tensor, steps: int, next_input: NextInput
    ) -> Tensor:
        """Inputs (B, D, steps) after u_t (B, D), each made of the output before it; of one layer.

        starts: of all rows their positions. No fill is due.
        """
        self._take_layer_back(0)
        rows = u_t.new_empty(steps + 1, *u_t.shape)
        rows[0] = u_t
        lengths, tokens = [steps] * len(starts), _Tokens(rows[:-1], None, None, rows[1:])
        with self._saved(0, starts, lengths):
            self._run(0, starts, lengths, tokens, next_input == "relu")
        return rows[1:].permute(1, 2, 0)

    @contextmanager
    def _saved(
        self, layer: int, starts: Mapping[int, int], lengths: Sequence[int]
    ) -> Iterator[None]:
        """What steps of a layer change comes back where they raise, and where the call is taken
        back; with slack the caller sees to both.
        """
        self.starts |= starts
        self._save(layer, starts, lengths)
        try:
            yield
        except BaseException:  # the layer may be repeated
            self._take_layer_back(layer)
            raise

    def _take_layer_back(self, layer: int) -> None:
        """The newest call's steps of a layer, if it has run: it is going to be repeated."""
        if layer in self._back:
            self._back.pop(layer)()
            self._before.pop(layer, None)

    def _all_inside(self, starts: Mapping[int, int], lengths: Sequence[int], width: int) -> bool:
        """Whether all rows in order take as many steps, without a leap."""
        return (
            list(starts) == self._everyone
            and min(lengths) == width
            and max(starts.values()) + width <= self._state.plan.end
        )

    def _run(
        self,
        layer: int,
        starts: Mapping[int, int],
        lengths: Sequence[int],
        tokens: _Tokens,
        rectified: bool = False,
    ) -> None:
        """Steps of one layer. rectified: y becomes max(y, 0), before the next step reads it."""
        own, index = self._layer(layer, tokens.u.dtype), self._index(list(starts))
        own.begin(self._state)
        n = len(tokens.u)
        if own.run is None or index is not None or min(lengths) < n:
            self._by_steps(own, starts, lengths, tokens, rectified)
            return
        at, done = dict(starts), 0
        while done < n:
            self._make_room(own, at, list(at))
            count = min(TOKENS, n - done, *(self._state.plan.end - p for p in at.values()))
            own.run(*tokens.part(done, done + count), rectified)
            done += count
            at = {row: p + count for row, p in at.items()}

    def _by_steps(
        self,
        own: _Layer,
        starts: Mapping[int, int],
        lengths: Sequence[int],
        tokens: _Tokens,
        rectified: bool,
    ) -> None:
        """One call after the other, of the rows that still go on."""
        rows, at = list(starts), dict(starts)
        index, taking = self._index(rows), rows
        for t in range(len(tokens.u)):
            going = [row if t < n else -1 for row, n in zip(rows, lengths, strict=True)]
            if going != taking:
                index, taking = self._index(going), going
            if own.fills.launched_here:
                own.fills.join()
            self._make_room(own, at, going)
            if own.history.needed:
                own.history.join(index)
            gate = None if tokens.pre is None else tokens.pre[t]
            out_gate = None if tokens.post is None else tokens.post[t]
            own.step(tokens.u[t], gate, out_gate, tokens.y[t], index, 0, True)
            if rectified:
                tokens.y[t].relu_()
            if own.fills.launched_here:  # what is due at a row's end is so for all layers
                staying = [row if t + 1 < n else -1 for row, n in zip(rows, lengths, strict=True)]
                own.fills.owe(staying, at)
            for row in taking:
                if row >= 0:
                    at[row] += 1

    def _make_room(self, own: _Layer, at: dict[int, int], rows: Sequence[int]) -> None:
        """Rows at the end of an endless stream's window leap. at: positions, which follow."""
        plan = own.state.plan
        full = [row for row in rows if row >= 0 and at[row] == plan.end]
        if full:  # others were refused
            # what is due in rows that are at their ends is so for all layers
            ended = [row for row in at if row not in rows]
            own.state.filled[ended] = own.state.positions[ended]
            own.fills.join()
            copy_end(own.state, full)
            stand_at_first(own.state, full)
            at |= dict.fromkeys(full, plan.window.first)

    def finish(self, ends: Mapping[int, int]) -> list[int]:
        """After the last layer: the rows of the call that were stepped stand at their ends.

        ends: of rows of the call. Returns the rows.
        """
        rows = [row for row in ends if row in self.starts]
        self._stand({row: ends[row] for row in rows}, self._state.positions)
        # a leap may end where the call began, and what is due there has not run
        self._stand(dict.fromkeys(rows, -1), self._state.filled)
        return rows

    def take_back(self) -> list[int]:
        """The newest call is taken back. Returns its rows, but for those with slack."""
        starts = {} if self._has_slack else self.starts
        for layer in list(self._back):
            self._take_layer_back(layer)
        self._stand(starts, self._state.positions, self._state.filled)
        self.starts = {}
        return list(starts)

    def _stand(self, at: Mapping[int, int], *tensors: Tensor) -> None:
        """Rows are between tokens at positions, which each of the tensors (B,) is told."""
        if not at:
            return
        state, index = self._state, self._index(list(at))
        positions = state.positions.new_tensor(list(at.values()))
        for tensor in tensors:
            if index is None:
                tensor.copy_(positions)
            else:
                tensor[index] = positions
        if index is None:
            state.token_at.fill_(-1)
        else:
            state.token_at[:, index] = -1

    def _save(self, layer: int, starts: Mapping[int, int], lengths: Sequence[int]) -> None:
        """Everything that the steps of a layer are going to change."""
        spans = [(start, start + n) for start, n in zip(starts.values(), lengths, strict=True)]
        if self._index(list(starts)) is None and len(set(spans)) == 1:
            places = self._changed(layer, slice(None), *spans[0])
        else:
            places = []
            for row, span in zip(starts, spans, strict=True):
                places += self._changed(layer, row, *span)
        saved = [x.clone() for x in places]
        self._before[layer] = saved
        self._back[layer] = partial(copy, saved, places)

    def _changed(self, layer: int, row: int | slice, start: int, end: int) -> list[Tensor]:
        """Views of all that steps from ``start`` on change before those at ``end``, of which slack
        has the rest built again. row: or all.
        """
        state, stop = self._state, end
        if end > state.plan.end:  # a leap
            places = (state.undo, state.images, state.kept, state.ring, state.open_block)
            return [x[layer, row] for x in places]
        found = [state.undo[layer, row], state.open_block[layer, row]]
        if self._has_slack:
            return found
        if state.plan.levels and (end - 1) // state.plan.base * state.plan.base > start:
            found.append(state.images[layer, row])
        for level in state.plan.levels:
            last = (end - 1) // level.block * level.block  # its last firing before the end
            if last <= start:
                break  # larger blocks fire no earlier
            stop = max(stop, min(last + level.block, state.length))
            if level.kept:
                first, kept = level.kept_offset, level.kept
                if last - level.block <= start:  # the only firing
                    slot = newest_slot(state, level, last)
                    first, kept = first + slot * level.transform, 1
                found.append(state.kept[layer, row, :, first : first + kept * level.transform])
        return [*found, state.ring[layer, row, :, start:stop]]

    def _index(self, rows: list[int]) -> Tensor | None:
        """Rows on the device; None for all in order."""
        if rows == self._everyone:
            return None
        return torch.tensor(rows, dtype=torch.int64, device=self._state.ring.device)

    def _layer(self, layer: int, dtype: torch.dtype) -> _Layer:
        """dtype: of the inputs."""
        if (layer, dtype) not in self._layers:
            state, make = self._state.layer(layer), self._implementation
            step, run = make.make_step(state), make.make_run(state)
            fills, plain = Fills(state, make, None), None
            if not self._has_slack:
                plain = make.make_plain_steps(state, dtype, _Granted())
            own = _Layer(state, step, run, History(state, make), fills, plain)
            self._layers[layer, dtype] = own
        return self._layers[layer, dtype]


def _by_token(x: Tensor) -> Tensor:
    """(R, D, P) -> (P, R, D), contiguous, and the values themselves."""
    return x.permute(2, 0, 1).contiguous().resolve_neg()
