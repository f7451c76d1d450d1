"""Programs on a FutureFillCache."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import futurefill_kernels as ff

from . import values
from .direct import DirectSums
from .interrupts import Interrupt, interrupted
from .program import Operation, Outcome, Program

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class WrongError(Exception):
    """The cache did what it must not."""


class StreamRun:
    """Caches under way, each with its direct sums; operations are about the current one."""

    def __init__(self, program: Program, outcome: Outcome) -> None:
        self._setup, self._outcome = program.setup, outcome
        setup = self._setup
        self._draw = np.random.default_rng(setup["seed"])
        self._dtype = DTYPES[setup["dtype"]]
        groups, channels = setup["groups"], setup["groups"] * setup["expand"]
        state = torch.float64 if self._dtype == torch.float64 else torch.float32
        self._filters = [
            torch.from_numpy(values.filters(self._draw, setup["values"], groups, taps)).to(state)
            for taps in setup["taps"]
        ]
        self._skip = None
        if setup["skip"]:
            self._skip = values.inputs(self._draw, (len(self._filters), channels), state)
        self._channels, self._batch = channels, setup["batch"]
        sums = DirectSums(
            [h.double().repeat_interleave(setup["expand"], 0).numpy() for h in self._filters],
            None if self._skip is None else self._skip.double().numpy(),
            self._batch,
            setup["length"],
            self._dtype,
            # Triton's interpreter cuts bfloat16 off where a GPU rounds it
            cut=setup["impl"] == "triton" and self._dtype == torch.bfloat16,
        )
        self._pairs = [(self._cache(setup["impl"], setup["plan"]), sums)]
        self._current = 0
        self._saved: tuple[dict[str, Tensor], DirectSums] | None = None

    def _cache(self, impl: str, plan: list[Any] | None) -> ff.FutureFillCache:
        length, rollback = self._setup["length"], self._setup["rollback"]
        if plan is not None and plan[1] is not None:
            rollback = rollback and 0  # with slack 0 or None
        return ff.FutureFillCache(
            self._filters,
            self._batch,
            length,
            channels=self._channels,
            skip=self._skip,
            plan=None if plan is None else ff.Plan(length, tuple(plan[0]), slack_from=plan[1]),
            impl=impl,
            dtype=self._dtype,
            rollback=rollback,
        )

    def do(self, operation: Operation) -> None:
        """One operation, and what must hold after any."""
        arguments = {name: value for name, value in operation.items() if name != "do"}
        getattr(self, operation["do"])(**arguments)
        cache, sums = self._pairs[self._current]
        if cache.taken != sums.positions:
            raise WrongError(f"positions {cache.taken}, expected {sums.positions}")
        for row, prompt in enumerate(sums.prompts):
            if cache.in_prompt(row) != (prompt is None):
                raise WrongError(f"in_prompt({row}) is {cache.in_prompt(row)}")

    def steps(
        self,
        count: int = 1,
        rows: list[int] | None = None,
        gates: int = 0,
        view: str = "plain",
        out: bool = False,
        poison: int | None = None,
        stop: list[int] | None = None,
    ) -> None:
        """Tokens. rows: as in ``cache.step``. gates: 1 for pre, 2 for post, 3 for both. poison: a
        row whose inputs are NaN. stop: what comes in between, see ``_stopped``.
        """
        for _ in range(count):
            cache, sums = self._pairs[self._current]
            if rows is None:
                chosen, given = list(range(self._batch)), None
            else:
                chosen = given = self._distinct(rows, padding=True)
            real = [row for row in chosen if row >= 0]
            if any(sums.room(row) < 1 for row in real):
                u = torch.zeros(len(chosen), self._channels, dtype=self._dtype)
                self._refused(lambda c=cache, x=u, r=given: c.step(x, rows=r))
                return

            def call(
                layer: int,
                cache: ff.FutureFillCache = cache,
                sums: DirectSums = sums,
                chosen: list[int] = chosen,
                given: list[int] | None = given,
            ) -> None:
                shape = (len(chosen), self._channels)
                u, pre, post = self._inputs(shape, gates, view)
                padding = torch.tensor([r < 0 for r in chosen])[:, None]
                if poison is not None:
                    padding = padding | torch.tensor([r == poison for r in chosen])[:, None]
                if padding.any():
                    u = u.masked_fill(padding, torch.nan)
                target = torch.full(shape, torch.nan, dtype=self._dtype) if out else None
                y = cache.step(u, layer, pre=pre, post=post, rows=given, out=target)
                if target is not None and y is not target:
                    raise WrongError("step did not return out")
                self._compare(
                    sums, layer, chosen, [1] * len(chosen), y[..., None],
                    u[..., None],
                    None if pre is None else pre[..., None],
                    None if post is None else post[..., None],
                )  # fmt: skip

            self._call(call, real, [1] * len(real), stop, step=True)

    def many(
        self,
        lengths: list[int],
        rows: list[int] | None = None,
        gates: int = 0,
        view: str = "plain",
        poison: int | None = None,
        stop: list[int] | None = None,
    ) -> None:
        """A prompt, a part of one, or a chunk, each row of its own length, NaN in the padding."""
        cache, sums = self._pairs[self._current]
        chosen = list(range(self._batch)) if rows is None else self._distinct(rows)
        wanted = [lengths[i % len(lengths)] for i in range(len(chosen))]
        rooms = [
            n if sums.prompts[row] is None else sums.room(row)
            for row, n in zip(chosen, wanted, strict=True)
        ]
        given = None if rows is None else chosen
        if min(rooms) < 1:
            u = torch.zeros(len(chosen), self._channels, 1, dtype=self._dtype)
            self._refused(lambda: cache.prefill(u, rows=given))
            return
        valid = [min(n, room) for n, room in zip(wanted, rooms, strict=True)]
        ragged = None if len(set(valid)) == 1 and poison is None else valid
        shape = (len(chosen), self._channels, max(valid))
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
            y = cache.prefill(u, layer, pre=pre, post=post, rows=given, lengths=ragged)
            self._compare(sums, layer, chosen, valid, y, u, pre, post)

        self._call(call, chosen, valid, stop, step=False)

    def reset(self, rows: list[int] | None = None) -> None:
        """Rows forgotten."""
        cache, sums = self._pairs[self._current]
        chosen = None if rows is None else self._distinct(rows)
        cache.reset(chosen)
        for row in range(self._batch) if chosen is None else chosen:
            sums.reset(row)

    def crop(self, back: list[int]) -> None:
        """Positions taken back, ``back`` of each row; one number: all rows to one length."""
        cache, sums = self._pairs[self._current]
        here = sums.positions
        if len(back) == 1:
            lengths = [max(max(here) - back[0], 0)] * self._batch
        else:
            lengths = [max(p - back[i % len(back)], 0) for i, p in enumerate(here)]
        try:
            cache.crop(lengths[0] if len(back) == 1 else lengths)
        except ValueError as error:
            for row, length in enumerate(lengths):
                if length < min(here[row], sums.oldest(row, cache.rollback)):
                    return
            raise WrongError(f"crop was refused: {error}") from error
        for row, length in enumerate(lengths):
            sums.crop(row, length)

    def reorder(self, rows: list[int]) -> None:
        """As in beam search."""
        cache, sums = self._pairs[self._current]
        chosen = [rows[i % len(rows)] % self._batch for i in range(self._batch)]
        cache.reorder(chosen)
        sums.reorder(chosen)

    def branch(self, how: str) -> None:
        """A copy becomes the current one; the original stays, as one of at most three."""
        cache, sums = self._pairs[self._current]
        copies: dict[str, Callable[[ff.FutureFillCache], ff.FutureFillCache]] = {
            "clone": lambda c: c.clone(),
            "copy": copy.copy,
            "deepcopy": copy.deepcopy,
            "pickle": lambda c: pickle.loads(pickle.dumps(c)),
        }
        self._pairs.append((copies[how](cache), sums.clone()))
        if how == "pickle":
            self._pairs[-1][1].loaded()
        self._pairs = self._pairs[-3:]
        self._current = len(self._pairs) - 1

    def switch(self) -> None:
        """Another of the caches goes on."""
        self._current = (self._current + 1) % len(self._pairs)

    def save(self) -> None:
        """The state as a dictionary, for `load`."""
        cache, sums = self._pairs[self._current]
        self._saved = cache.state_dict(), sums.clone()

    def load(self, impl: str | None = None, plan: list[Any] | None = None) -> None:
        """What was saved, into the current cache, or into a new one of another kind."""
        if self._saved is None:
            self.save()
        assert self._saved is not None
        state, sums = self._saved
        cache = self._pairs[self._current][0] if impl is None else self._cache(impl, plan)
        try:
            cache.load_state_dict(state)
        except ValueError as error:
            if "pending" in state and "plan" in str(error):
                return  # pending outputs are those of their plan
            raise
        self._pairs[self._current] = cache, sums.clone()
        self._pairs[self._current][1].loaded()

    def bad(self, which: int) -> None:
        """A call that is refused, and changes nothing."""
        cache, _ = self._pairs[self._current]
        shape = (self._batch, self._channels)
        u = torch.zeros(shape, dtype=self._dtype)
        calls: list[Callable[[], Any]] = [
            lambda: cache.step(u[:, :-1]),
            lambda: cache.step(u, 1 + len(self._filters)),
            lambda: cache.step(u.to(torch.complex64)),
            lambda: cache.step(u, pre=u[:-1]),
            lambda: cache.step(u, out=u.double() if self._dtype != torch.float64 else u.float()),
            lambda: cache.step(u, rows=[self._batch]),
            lambda: cache.prefill(u),
            lambda: cache.prefill(u[..., None], lengths=[2] * self._batch),
            lambda: cache.prefill(u[:1, :, None], rows=[0, 0]),
            lambda: cache.crop([0] * (self._batch + 1)),
            lambda: cache.crop(-1),
            lambda: cache.reorder([0] * (self._batch + 1)),
            lambda: cache.reset([self._batch]),
            lambda: cache.load_state_dict({}),
        ]
        self._refused(calls[which % len(calls)])

    def _call(
        self,
        call: Callable[[int], None],
        rows: list[int],
        widths: list[int],
        stop: list[int] | None,
        *,
        step: bool,
    ) -> None:
        """All layers of a token or prompt call. stop: (layer, call, back): the function call that
        raises, counted from the layer's beginning; back: whether abort follows, or a retry.
        """
        cache, sums = self._pairs[self._current]
        layers = range(len(self._filters))
        before = cache.calls
        if stop is not None:
            layer, after, abort = stop
            layer %= len(layers)
            try:
                for number in layers[:layer]:
                    call(number)
                with interrupted(after):
                    call(layer)
                for number in layers[layer + 1 :]:
                    call(number)
            except Interrupt:
                if cache.calls == before:
                    if abort:
                        cache.abort()
                    else:
                        self._call(call, rows, widths, None, step=step)
                    return
        else:
            for number in layers:
                call(number)
        for row, width in zip(rows, widths, strict=True):
            sums.commit(row, width, step=step)

    def _refused(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except (ValueError, TypeError):
            return
        raise WrongError("a bad call was taken")

    def _distinct(self, rows: list[int], *, padding: bool = False) -> list[int]:
        """Rows of the batch, each once, at least one."""
        found: list[int] = []
        for row in rows:
            if row < 0:
                if padding:
                    found.append(-1)
            elif row % self._batch not in found:
                found.append(row % self._batch)
        return found or [0]

    def _inputs(
        self, shape: tuple[int, ...], gates: int, view: str
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        def some(asked: int) -> Tensor | None:
            return values.seen_as(values.inputs(self._draw, shape, self._dtype), view)

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
    ) -> None:
        """Outputs y (R, D, P) of one layer against direct sums."""
        if y.shape != u.shape or y.dtype != self._dtype:
            raise WrongError(f"an output {tuple(y.shape)} of {y.dtype} for {tuple(u.shape)}")
        x = _numbers(u)
        if pre is not None:
            x = x * _numbers(pre)
        gate = None if post is None else _numbers(post)
        got = y.double().numpy()
        self._outcome.cases += 1
        for i, (row, width) in enumerate(zip(rows, widths, strict=True)):
            if row < 0:
                if got[i].any():
                    raise WrongError("an output of padding is not zero")
                continue
            expected, bound = sums.outputs(
                layer, row, x[i, :, :width], None if gate is None else gate[i, :, :width]
            )
            known = np.isfinite(bound).all()
            if not known:  # a NaN has come to this row
                continue
            error = np.abs(got[i, :, :width] - expected) / bound
            largest = float(error.max())
            if not largest <= 1:
                at = np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)
                raise WrongError(
                    f"layer {layer}, row {row}, channel {at[0]}, position "
                    f"{sums.seen[row]} + {at[1]}: {got[i][at]} instead of {expected[at]}, "
                    f"{largest:.3g} times the bound"
                )
            self._outcome.worst = max(self._outcome.worst, largest)


def _numbers(x: Tensor) -> np.ndarray:
    return x.resolve_neg().double().numpy()
