"""Positions inside the stream whose inputs are known: steps of one layer after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..implementations.base import Implementation, Step
from ..state.tensors import StreamState
from .fills import Fills
from .history import History
from .images import copy

#: What a step takes beyond its arithmetic, in operations that the device does meanwhile.
_STEP_OVERHEAD = {"cpu": 2e4, "cuda": 1e8}


def steps_are_cheaper(state: StreamState, rows: int, position: int, width: int) -> bool:
    """Whether that many steps of rows at a position take less than one transform of all inputs."""
    channels, total = rows * state.channels, position + 2 * width
    overhead = _STEP_OVERHEAD.get(state.ring.device.type, 0.0)
    steps = width * (state.plan.flops_per_token * channels + overhead)
    return steps < 7.5 * total * math.log2(total) * channels  # three real transforms of it, padded


@dataclass(frozen=True)
class _Layer:
    """One layer as a stream of its own, bound once."""

    state: StreamState
    step: Step
    history: History
    fills: Fills


class Chunks:
    """Steps of one layer at a time. Every layer's own fills follow its own steps, so state and
    outputs are those of single tokens bit for bit; positions advance after the last layer.
    """

    def __init__(self, state: StreamState, implementation: Implementation) -> None:
        self._state, self._implementation = state, implementation
        self._layers: dict[int, _Layer] = {}
        # of the newest call: what its steps changed, as it was and where it is
        self._before: list[tuple[list[Tensor], list[Tensor]]] = []
        self._start: dict[int, int] = {}

    def begin(self) -> None:
        """A new call: the one before is not going to be taken back."""
        self._before.clear()
        self._start = {}

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
        self._start |= starts
        self._save(layer, starts, lengths)
        try:
            return self._run(layer, starts, lengths, u, pre, post)
        except BaseException:  # the layer may be repeated
            copy(*self._before[-1])
            del self._before[-1]
            raise

    def _run(
        self,
        layer: int,
        starts: Mapping[int, int],
        lengths: Sequence[int],
        u: Tensor,
        pre: Tensor | None,
        post: Tensor | None,
    ) -> Tensor:
        rows, own = list(starts), self._layer(layer)
        own.fills.take_back()
        own.history.drop()
        own.state.positions.copy_(self._state.positions)
        own.state.filled.copy_(self._state.filled)
        x = u.permute(2, 0, 1).contiguous()
        before = None if pre is None else pre.permute(2, 0, 1).contiguous()
        after = None if post is None else post.permute(2, 0, 1).contiguous()
        y = torch.empty_like(x)
        at = dict(starts)
        index, taking = self._index(rows), rows
        for t in range(len(x)):
            going = [row if t < n else -1 for row, n in zip(rows, lengths, strict=True)]
            if going != taking:
                index, taking = self._index(going), going
            if own.fills.launched_here:
                own.fills.join()
            if own.history.needed:
                own.history.join(index)
            gate = None if before is None else before[t]
            out_gate = None if after is None else after[t]
            own.step(x[t], gate, out_gate, y[t], index, 0, True)
            if own.fills.launched_here:
                own.fills.owe(taking, at)
            for row in taking:
                if row >= 0:
                    at[row] += 1
        own.fills.take_back()  # what is due now is so for all layers
        return y.permute(1, 2, 0)

    def finish(self, ends: Mapping[int, int]) -> list[int]:
        """After the last layer: the rows of the call that were stepped stand at their ends.

        ends: of rows of the call. Returns the rows.
        """
        rows = [row for row in ends if row in self._start]
        for row in rows:
            self._state.positions[row] = ends[row]
            self._state.token_at[:, row] = -1
        return rows

    def take_back(self) -> list[int]:
        """The newest call is taken back. Returns its rows."""
        rows = list(self._start)
        while self._before:
            copy(*self._before[-1])
            del self._before[-1]
        for row, position in self._start.items():
            self._state.positions[row] = self._state.filled[row] = position
            self._state.token_at[:, row] = -1
        self._start = {}
        return rows

    def _save(self, layer: int, starts: Mapping[int, int], lengths: Sequence[int]) -> None:
        """Everything that the steps of a layer are going to change."""
        state, places = self._state, []
        for (row, start), length in zip(starts.items(), lengths, strict=True):
            end = stop = start + length
            fires = False
            for level in state.plan.levels:
                last = (end - 1) // level.block * level.block  # its last firing before the end
                if last > start:
                    fires = True
                    stop = max(stop, min(last + level.block, state.length))
                    kept = slice(
                        level.kept_offset, level.kept_offset + level.kept * level.transform
                    )
                    places.append(state.kept[layer, row, :, kept])
            places += [state.ring[layer, row, :, start:stop], state.undo[layer, row]]
            if fires:
                places.append(state.images[layer, row])
        self._before.append(([x.clone() for x in places], places))

    def _index(self, rows: list[int]) -> Tensor | None:
        """Rows on the device; None for all in order."""
        if rows == list(range(len(self._state.positions))):
            return None
        return torch.tensor(rows, dtype=torch.int64, device=self._state.ring.device)

    def _layer(self, layer: int) -> _Layer:
        if layer not in self._layers:
            state, make = self._state.layer(layer), self._implementation
            self._layers[layer] = _Layer(
                state, make.make_step(state), History(state, make), Fills(state, make, None)
            )
        return self._layers[layer]
