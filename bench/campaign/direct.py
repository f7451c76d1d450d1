"""Direct sums in float64, and how far a stream's outputs may be from them.

An output of a channel that has seen n inputs x through taps h, in arithmetic of unit roundoff e:

    |error| <= 4 e log2(4 + n) |h| |x|  +  rounding of skip, gates and of the output's own dtype

with Euclidean norms: a transform's error is relative to its largest output, not to each of them.
A ring of 16 bits with r levels, of unit roundoff v, adds (docs/accuracy.md)

    v (r + 3) sum_{s>=1} |h_s| |x_{t-s}|     one each for inputs, a prompt and a loaded state

A sum of these |h_s| |x_{t-s}| that the ring's dtype does not hold may be anything, and so may what
an input that it does not hold reaches.

An input at position t that is NaN or infinite may reach the outputs t .. t + L - 1 + 2T of its own
row and channel, L the longest filter's taps and T the plan's largest block, and no others.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence

import numpy as np
import torch

from futurefill_kernels.plan import Plan

from .values import Filters

CONSTANT = 4.0
ROUNDING = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
#: Half of the smallest positive number.
TINY = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 2.0**-25, torch.bfloat16: 0.0}


class DirectSums:
    """All gated inputs of every row and layer, the prompt's too, and sums over them.

    filters: of all layers. length: positions that a row can take after its prompt, None for any
    number. dtype: of inputs and outputs. state_dtype: of the arithmetic. ring_dtype: of what is
    stored, default the arithmetic's. cut: whether outputs may be cut off to their dtype, not
    rounded.
    """

    def __init__(
        self,
        filters: Filters,
        batch_size: int,
        length: int | None,
        dtype: torch.dtype,
        *,
        state_dtype: torch.dtype,
        ring_dtype: torch.dtype | None = None,
        cut: bool = False,
    ) -> None:
        self._length, self._dtype = length, dtype
        self._output_rounding = ROUNDING[dtype] * (1 + cut)
        self._take_filters(filters)
        self._state_rounding = ROUNDING[state_dtype]
        self._ring = None if ring_dtype in (None, state_dtype) else ring_dtype
        self._largest = float(torch.finfo(dtype).max)
        self._block = self._levels = 0
        layers, self._reach = len(filters.taps), max(h.shape[1] for h in filters.taps)
        self._empty = np.zeros((layers, filters.channels, self._reach))  # in front of all inputs
        self._inputs = [self._empty] * batch_size
        self.seen = [0] * batch_size
        # of every row (layer, channel, position) of inputs that are no number
        self._bad: list[list[tuple[int, int, int]]] = [[] for _ in range(batch_size)]
        #: Tokens of the prompt; None while a row waits for its first step.
        self.prompts: list[int | None] = [None] * batch_size
        # whether what a row had seen before was written from elsewhere
        self._moved = [False] * batch_size
        # the furthest positions, and what lies before the newest load
        self._furthest, self._loaded = [0] * batch_size, [0] * batch_size

    @property
    def positions(self) -> list[int]:
        """(B,) positions taken since the prompt."""
        return [0 if p is None else n - p for n, p in zip(self.seen, self.prompts, strict=True)]

    def room(self, row: int) -> int:
        """Positions that a row can still take."""
        return sys.maxsize if self._length is None else self._length - self.positions[row]

    def refilter(self, filters: Filters) -> None:
        """These from now on, as if they had always been there, none longer than the first ones.
        Rows can be taken back to here.
        """
        self._take_filters(filters)
        self._furthest, self._loaded = self.positions, self.positions

    def _take_filters(self, filters: Filters) -> None:
        self.filters = filters
        taps, self._skip = filters.seen()
        self._newest_last = [np.ascontiguousarray(h[:, ::-1]) for h in taps]
        self._norms = [np.sqrt((h**2).sum(1)) for h in taps]

    def has_inputs(self, row: int, taps: int | None) -> bool:
        """Whether a cache has all inputs of a row that filters of so many taps reach, None for any
        number: those of a prompt go with the first step.
        """
        prompt = self.prompts[row]
        if prompt is None or not (prompt or self._moved[row]):
            return True
        return taps is not None and self.positions[row] >= taps - 1

    def take_plan(self, plan: Plan) -> None:
        """What comes now is by this plan."""
        self._block = max(self._block, plan.base, *(level.block for level in plan.levels))
        self._levels = max(self._levels, len(plan.levels))

    def outputs(
        self, layer: int, row: int, x: np.ndarray, post: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of gated inputs x (D, T) that follow what the row has seen, and their bounds.

        Bounds are NaN where an output may be anything, and infinite where it is to be no number.
        Everything is (D, T).
        """
        bad = ~np.isfinite(x)
        x = np.where(bad, 0.0, x)
        width, end = x.shape[1], self.seen[row] + x.shape[1]
        inputs = self._with(layer, row, x)
        h = self._newest_last[layer]
        taps = h.shape[1]
        windows = np.lib.stride_tricks.sliding_window_view(
            inputs[:, -(taps + width - 1) :], taps, axis=1
        )
        y = np.einsum("dtl,dl->dt", windows, h)
        norm = self._norms[layer] * np.sqrt(np.einsum("dn,dn->d", inputs, inputs))
        # what is added and multiplied here is rounded in float64
        rounding = self._state_rounding + ROUNDING[torch.float64]
        scale = CONSTANT * self._state_rounding * np.log2(4 + end)
        bound = np.repeat((scale * norm)[:, None], width, 1)
        if self._ring is not None:
            older = np.einsum("dtl,dl->dt", np.abs(windows[..., :-1]), np.abs(h[:, :-1]))
            times = self._levels + 3
            bound += times * (ROUNDING[self._ring] * older + TINY[self._ring])
            bound[older > torch.finfo(self._ring).max] = np.nan
        if self._skip is not None:
            direct = self._skip[layer][:, None] * x
            y = y + direct
            bound += 2 * rounding * np.abs(direct)
        if post is not None:
            y, bound = y * post, bound * np.abs(post) + rounding * np.abs(y * post)
        bound += self._output_rounding * (np.abs(y) + bound) + TINY[self._dtype] + 1e-300
        bound[np.abs(y) + bound > self._largest] = np.nan
        too_large = np.zeros_like(bad)
        if self._ring is not None:
            too_large = np.abs(x) > torch.finfo(self._ring).max
        self._spread(layer, row, bad | too_large, bound)
        bound[bad] = np.inf
        return y, bound

    def _spread(self, layer: int, row: int, bad: np.ndarray, bound: np.ndarray) -> None:
        """Bounds of outputs that inputs which are stored as no numbers reach, bad (D, T) among
        them.
        """
        seen = self.seen[row]
        before = self._bad[row]
        if before:  # those of a call that was taken back go
            before = [one for one in before if one[0] != layer or one[2] < seen]
        if not before and not bad.any():
            self._bad[row] = before
            return
        new = [(layer, int(d), seen + int(t)) for d, t in zip(*np.nonzero(bad), strict=True)]
        self._bad[row] = before + new
        for where, channel, position in self._bad[row]:
            if where == layer:
                begin, end = position - seen, position - seen + self._reach + 2 * self._block
                bound[channel, max(begin, 0) : max(end, 0)] = np.nan

    def _with(self, layer: int, row: int, x: np.ndarray) -> np.ndarray:
        """Everything up to and with x that follows what the row has seen, zeros in front."""
        begin = self._reach + self.seen[row]
        end = begin + x.shape[1]
        held = self._inputs[row]
        if held.shape[2] < end:
            held = np.zeros((*held.shape[:2], 2 * end))
            held[..., :begin] = self._inputs[row][..., :begin]
            self._inputs[row] = held
        held[layer, :, begin:end] = x
        return held[layer, :, :end]

    def commit(self, row: int, width: int, *, step: bool) -> None:
        """A call is finished: the row has seen its inputs, and a step has ended its prompt."""
        if step and self.prompts[row] is None:
            self.prompts[row] = self.seen[row]
        self.seen[row] += width
        self._furthest[row] = max(self._furthest[row], self.positions[row])

    def loaded(self) -> None:
        """What the rows hold was written from elsewhere, without a way back."""
        self._moved = [True] * len(self.seen)
        self._furthest, self._loaded = self.positions, self.positions

    def oldest(self, row: int, rollback: int | None) -> int:
        """The position that a row can be taken back to for sure."""
        if rollback is None:
            return 0
        return max(self._loaded[row], self._furthest[row] - rollback)

    def crop(self, row: int, length: int) -> None:
        """Take back all positions from length on."""
        if self.positions[row] > length:
            self.seen[row] -= self.positions[row] - length
            self._bad[row] = [one for one in self._bad[row] if one[2] < self.seen[row]]

    def reset(self, row: int) -> None:
        """Nothing has come."""
        self.seen[row], self.prompts[row], self._inputs[row] = 0, None, self._empty
        self._furthest[row] = self._loaded[row] = 0
        self._moved[row] = False
        self._bad[row] = []

    def reorder(self, rows: Sequence[int]) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was."""
        self.seen = [self.seen[r] for r in rows]
        self.prompts = [self.prompts[r] for r in rows]
        self._moved = [self._moved[r] for r in rows]
        self._furthest = [self._furthest[r] for r in rows]
        self._loaded = [self._loaded[r] for r in rows]
        self._inputs = [self._inputs[r].copy() for r in rows]
        self._bad = [list(self._bad[r]) for r in rows]

    def clone(self) -> DirectSums:
        """An independent copy."""
        other = copy.copy(self)
        other.seen, other.prompts = list(self.seen), list(self.prompts)
        other._moved = list(self._moved)
        other._furthest, other._loaded = list(self._furthest), list(self._loaded)
        other._inputs = [x.copy() for x in self._inputs]
        other._bad = [list(x) for x in self._bad]
        return other
