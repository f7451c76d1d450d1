"""Programs on a FutureFillCache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import futurefill_kernels as ff
from futurefill_kernels.cache.chunk import NextInput

from . import values
from .caches import Caches, WrongError
from .direct import DirectSums
from .refusals import at_layer
from .stops import Stop, inside

#: Positions to a firing that are taken in one go.
NEAR = 600


class StreamRun(Caches):
    """Tokens of streams under way, compared with direct sums."""

    def steps(
        self,
        count: int = 1,
        rows: list[int] | None = None,
        gates: int = 0,
        view: str = "plain",
        out: bool = False,
        poison: int | None = None,
        plant: list[Any] | None = None,
        stop: list[Any] | None = None,
        undo: bool = False,
        refuse: list[int] | None = None,
        form: str = "list",
    ) -> None:
        """Tokens. rows: as in ``cache.step``. gates: 1 for pre, 2 for post, 3 for both. poison: a
        row whose inputs are NaN. plant: see ``_planted``; in the first token. stop, undo,
        refuse: what happens to the last one, see ``_call``. form: what rows are given as.
        """
        for t in range(count):
            cache, sums = self.current
            if rows is None:
                chosen, given = list(range(self.batch)), None
            else:
                chosen = given = self.distinct(rows, padding=True)
            real = [row for row in chosen if row >= 0]
            if any(sums.room(row) < 1 for row in real):
                u = torch.zeros(len(chosen), self.channels, dtype=self.dtype)
                self.refused(lambda c=cache, x=u, r=given: c.step(x, rows=r))
                return

            def call(
                layer: int,
                cache: ff.FutureFillCache = cache,
                sums: DirectSums = sums,
                chosen: list[int] = chosen,
                given: list[int] | None = given,
                plant: list[Any] | None = None if t else plant,
            ) -> None:
                shape = (len(chosen), self.channels)
                u, pre, post = self._inputs(shape, gates, view)
                padding = torch.tensor([r < 0 for r in chosen])[:, None]
                if poison is not None:
                    padding = padding | torch.tensor([r == poison for r in chosen])[:, None]
                if padding.any():
                    u = u.masked_fill(padding, torch.nan)
                u = _planted(u[..., None], layer, plant)[..., 0]
                target = torch.full(shape, torch.nan, dtype=self.dtype) if out else None
                y = cache.step(u, layer, pre=pre, post=post, rows=_as(given, form), out=target)
                if target is not None and y is not target:
                    raise WrongError("step did not return out")
                self._compare(
                    sums, layer, chosen, [1] * len(chosen), y[..., None],
                    u[..., None],
                    None if pre is None else pre[..., None],
                    None if post is None else post[..., None],
                )  # fmt: skip

            last = t + 1 == count
            self._call(
                call, real, [1] * len(real), stop if last else None, step=True, undo=undo and last,
                refuse=refuse if last else None,
            )  # fmt: skip

    def run(
        self,
        count: int = 1,
        gates: int = 0,
        view: str = "plain",
        plant: list[Any] | None = None,
        stop: list[Any] | None = None,
        undo: bool = False,
        refuse: list[int] | None = None,
    ) -> None:
        """Many steps of all rows in one call."""
        cache, sums = self.current
        rows = list(range(self.batch))
        width = min(count, *(sums.room(row) for row in rows))
        if width < 1:
            u = torch.zeros(self.batch, self.channels, 1, dtype=self.dtype)
            self.refused(lambda: cache.run(u))
            return

        def call(layer: int) -> None:
            u, pre, post = self._inputs((self.batch, self.channels, width), gates, view)
            u = _planted(u, layer, plant)
            y = cache.run(u, layer, pre=pre, post=post)
            self._compare(sums, layer, rows, [width] * self.batch, y, u, pre, post)

        self._call(call, rows, [width] * self.batch, stop, step=True, undo=undo, refuse=refuse)

    def approach(self, before: int) -> None:
        """Steps of all rows until the first is at so many positions before the leap that follows;
        of streams that end nothing.
        """
        cache, _ = self.current
        if cache.plan.length is None:
            window = cache.plan.window
            here = max(map(cache.plan.place, cache.taken))
            self.run((window.end - before - here) % window.period or 1)

    def generate(
        self,
        count: int = 1,
        following: NextInput = "identity",
        stop: list[Any] | None = None,
        undo: bool = False,
        refuse: list[int] | None = None,
    ) -> None:
        """Steps whose inputs are made of the outputs before them."""
        cache, sums = self.current
        rows = list(range(self.batch))
        u, _, _ = self._inputs((self.batch, self.channels), 0, "plain")
        width = min(count, *(sums.room(row) for row in rows))
        if width < 1 or self.layers > 1 or cache.plan.slack_from is not None:
            self.refused(lambda: cache.generate(u, max(width, 1), following))
            return

        def call(layer: int) -> None:
            new = cache.generate(u, width, following)
            x = torch.cat([u[..., None], new[..., :-1]], -1)
            self._compare(
                sums, layer, rows, [width] * self.batch, new, x, None, None,
                positive=following == "relu",
            )  # fmt: skip

        self._call(call, rows, [width] * self.batch, stop, step=True, undo=undo, refuse=refuse)

    def many(
        self,
        lengths: list[int],
        rows: list[int] | None = None,
        gates: int = 0,
        view: str = "plain",
        poison: int | None = None,
        plant: list[Any] | None = None,
        stop: list[Any] | None = None,
        undo: bool = False,
        refuse: list[int] | None = None,
        form: str = "list",
    ) -> None:
        """A prompt, a part of one, or a chunk, each row of its own length, NaN in the padding.
        form: what rows and lengths are given as.
        """
        cache, sums = self.current
        chosen = list(range(self.batch)) if rows is None else self.distinct(rows)
        wanted = [lengths[i % len(lengths)] for i in range(len(chosen))]
        rooms = [
            n if sums.prompts[row] is None else sums.room(row)
            for row, n in zip(chosen, wanted, strict=True)
        ]
        given = None if rows is None else chosen
        if min(rooms) < 1:
            u = torch.zeros(len(chosen), self.channels, 1, dtype=self.dtype)
            self.refused(lambda: cache.prefill(u, rows=given))
            return
        valid = [min(n, room) for n, room in zip(wanted, rooms, strict=True)]
        ragged = None if len(set(valid)) == 1 and poison is None else valid
        shape = (len(chosen), self.channels, max(valid))
        inside = torch.arange(shape[2]) < torch.tensor(valid)[:, None, None]

        def call(layer: int) -> None:
            u, pre, post = self._inputs(shape, gates, view)
            if ragged is not None:
                u, pre, post = (
                    None if x is None else x.where(inside, torch.nan) for x in (u, pre, post)
                )
            if poison is not None and poison in chosen:
                u = u.clone()
                u[chosen.index(poison), 0, 0] = torch.nan
            u = _planted(u, layer, plant)
            y = cache.prefill(
                u, layer, pre=pre, post=post, rows=_as(given, form), lengths=_as(ragged, form)
            )
            self._compare(sums, layer, chosen, valid, y, u, pre, post)

        self._call(call, chosen, valid, stop, step=False, undo=undo, refuse=refuse)

    def to_firing(self, level: int, past: int, run: bool = False) -> None:
        """Steps of all rows, so that row 0 is so far past the next firing of a level, or of a
        smaller one that is near.
        """
        cache, _ = self.current
        blocks = [x.block for x in cache.plan.levels if x.block <= NEAR]
        if blocks:
            block = blocks[level % len(blocks)]
            count = block - cache.plan.place(cache.taken[0]) % block + past
            (self.run if run else self.steps)(count)

    def pieces(
        self,
        widths: list[int],
        rows: list[int],
        stop: list[Any] | None = None,
        undo: bool = False,
        refuse: list[int] | None = None,
    ) -> None:
        """A prompt in many calls, after a reset of rows that are behind theirs. stop, undo, refuse:
        what happens to the last one, see ``_call``.
        """
        _, sums = self.current
        behind = [row for row in self.distinct(rows) if sums.prompts[row] is not None]
        if behind:
            self.reset(behind)
        for width in widths[:-1]:
            self.many([width], rows)
        self.many(widths[-1:], rows, stop=stop, undo=undo, refuse=refuse)

    def launch(self, history: bool = False) -> None:
        """The fills that are due, or the sums over older inputs."""
        cache, _ = self.current
        if history:
            cache.sum_history()
        else:
            cache.launch_fills()

    def inside(self, which: int) -> None:
        """A call that is refused inside a token, of which nothing is left then."""
        cache, sums = self.current
        if self.layers == 1 or any(sums.room(row) < 1 for row in range(self.batch)):
            return
        u, _, _ = self._inputs((self.batch, self.channels), 0, "plain")
        cache.step(u)
        self._refused_inside(which, 1)
        cache.abort()

    def _refused_inside(self, which: int, layer: int) -> None:
        """A call that is refused where a later layer comes next."""
        calls = at_layer(self.current[0], layer, self._first)
        self.refused(calls[which % len(calls)])

    def _call(
        self,
        call: Callable[[int], None],
        rows: list[int],
        widths: list[int],
        stop: list[Any] | None,
        *,
        step: bool,
        undo: bool = False,
        refuse: list[int] | None = None,
    ) -> None:
        """All layers of a token or of a call of many.

        stop: (layer, number, then, how): what number of a layer's calls raises; then: 0 the whole
        call again, 1 ``abort``, 2 the layer again. undo: the whole call is taken back at its end.
        refuse: (layer, which, ...): calls that are refused before a layer, or behind the last one.
        """
        cache, sums = self.current
        at = {row: cache.taken[row] for row in rows}
        before, last = cache.calls, 0 if refuse is None else refuse[0] % (self.layers + 1)
        for layer in range(self.layers):
            for which in refuse[1:] if refuse is not None and layer == last else ():
                if layer:
                    self._refused_inside(which, layer)
                else:
                    self.bad(which)
            if stop is None or layer != stop[0] % self.layers:
                call(layer)
                continue
            try:
                with inside(stop[1], *stop[3:]):
                    call(layer)
            except Stop:
                if cache.calls == before:
                    if stop[2] == 1:
                        cache.abort()
                        return
                    if stop[2] == 2:  # all of it where the layer is the first
                        call(layer)
                        continue
                    self._call(call, rows, widths, None, step=step)
                    return
                break
        for which in refuse[1:] if refuse is not None and last == self.layers else ():
            self.bad(which)
        if undo:
            cache.take_back(at)
            return
        for row, width in zip(rows, widths, strict=True):
            sums.commit(row, width, step=step)

    def _inputs(
        self, shape: tuple[int, ...], gates: int, view: str
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        def some(asked: int) -> Tensor | None:
            return values.seen_as(values.inputs(self.draw, shape, self.dtype), view)

        u = some(1)
        assert u is not None
        return u, some(1) if gates & 1 else None, some(1) if gates & 2 else None

    def _compare(
        self,
        sums: DirectSums,
        layer: int,
        rows: list[int],
        widths: list[int],
        y: Tensor,
        u: Tensor,
        pre: Tensor | None,
        post: Tensor | None,
        *,
        positive: bool = False,
    ) -> None:
        """Outputs y (R, D, P) of one layer against direct sums. positive: y is their relu."""
        if y.shape != u.shape or y.dtype != self.dtype:
            raise WrongError(f"an output {tuple(y.shape)} of {y.dtype} for {tuple(u.shape)}")
        x = _numbers(u)
        if pre is not None:
            x = x * _numbers(pre)
        gate = None if post is None else _numbers(post)
        got = y.double().numpy()
        self.outcome.cases += 1
        for i, (row, width) in enumerate(zip(rows, widths, strict=True)):
            if row < 0:
                if got[i].any():
                    raise WrongError("an output of padding is not zero")
                continue
            expected, bound = sums.outputs(
                layer, row, x[i, :, :width], None if gate is None else gate[i, :, :width]
            )
            if positive:
                expected = np.maximum(expected, 0)
                bound[np.isposinf(bound) & ~np.isnan(x[i, :, :width])] = np.nan
            known, number = np.isfinite(bound), np.isfinite(got[i, :, :width])
            if (np.isposinf(bound) & number).any():
                raise WrongError(f"layer {layer}, row {row}: an input that is no number was lost")
            error = np.divide(
                np.abs(got[i, :, :width] - expected), bound,
                out=np.zeros_like(bound), where=known,
            )  # fmt: skip
            largest = float(error.max())
            if not largest <= 1:
                at = np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)
                raise WrongError(
                    f"layer {layer}, row {row}, channel {at[0]}, position "
                    f"{sums.seen[row]} + {at[1]}: {got[i][at]} instead of {expected[at]}, "
                    f"{largest:.3g} times the bound"
                )
            self.outcome.worst = max(self.outcome.worst, largest)


def _as(numbers: list[int] | None, form: str) -> Any:
    """Whole numbers as a list, a tuple, or a tensor."""
    if numbers is None or form == "list":
        return numbers
    return tuple(numbers) if form == "tuple" else torch.tensor(numbers)


def _planted(u: Tensor, layer: int, plant: list[Any] | None) -> Tensor:
    """u (R, D, T) with one entry that is no number: (layer, row, channel, position, which)."""
    if plant is None or (plant[0] and layer != plant[0] - 1):
        return u
    row, channel, position = (at % n for at, n in zip(plant[1:4], u.shape, strict=True))
    u = u.clone()
    u[row, channel, position] = float(plant[4])
    return u


def _numbers(x: Tensor) -> np.ndarray:
    return x.resolve_neg().double().numpy()
