"""Caches under way, each with its direct sums, and what is done to them as a whole."""

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
from .program import Operation, Outcome, Program

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class WrongError(Exception):
    """The cache did what it must not."""


class Caches:
    """At most three caches of one setup; operations are about the current one."""

    def __init__(self, program: Program, outcome: Outcome) -> None:
        setup, self.outcome = program.setup, outcome
        self._setup = setup
        self.draw = np.random.default_rng(setup["seed"])
        self.dtype = DTYPES[setup["dtype"]]
        groups, channels = setup["groups"], setup["groups"] * setup["expand"]
        wide = self.dtype == torch.float64 or setup.get("wide", False)
        self._state = state = torch.float64 if wide else torch.float32
        self.filters = [
            torch.from_numpy(values.filters(self.draw, setup["values"], groups, taps)).to(state)
            for taps in setup["taps"]
        ]
        self._skip = None
        if setup["skip"]:
            self._skip = values.inputs(self.draw, (len(self.filters), channels), state)
        self.channels, self.batch = channels, setup["batch"]
        sums = DirectSums(
            [h.double().repeat_interleave(setup["expand"], 0).numpy() for h in self.filters],
            None if self._skip is None else self._skip.double().numpy(),
            self.batch,
            setup["length"],
            self.dtype,
            state_dtype=state,
            # Triton's interpreter cuts bfloat16 off where a GPU rounds it
            cut=setup["impl"] == "triton" and self.dtype == torch.bfloat16,
        )
        self._pairs = [(self._cache(setup["impl"], setup["plan"]), sums)]
        sums.take_plan(self._pairs[0][0].plan)
        self._current = 0
        self._saved: tuple[dict[str, Tensor], DirectSums] | None = None

    @property
    def current(self) -> tuple[ff.FutureFillCache, DirectSums]:
        """The cache that goes on, and what it has seen."""
        return self._pairs[self._current]

    def _cache(self, impl: str, plan: list[Any] | None) -> ff.FutureFillCache:
        length, rollback = self._setup["length"], self._setup["rollback"]
        memory = self._setup.get("memory", "speed")
        if plan is not None and plan[1] is not None:  # slack: 0 or None, and kept spectra
            rollback, memory = rollback and 0, "speed"
        return ff.FutureFillCache(
            self.filters,
            self.batch,
            length,
            channels=self.channels,
            skip=self._skip,
            plan=None if plan is None else ff.Plan(length, tuple(plan[0]), slack_from=plan[1]),
            impl=impl,
            dtype=self.dtype,
            rollback=rollback,
            state_dtype=self._state,
            memory=memory,
        )

    def do(self, operation: Operation) -> None:
        """One operation, and what must hold after any."""
        arguments = {name: value for name, value in operation.items() if name != "do"}
        getattr(self, operation["do"])(**arguments)
        cache, sums = self.current
        if cache.taken != sums.positions:
            raise WrongError(f"positions {cache.taken}, expected {sums.positions}")
        for row, prompt in enumerate(sums.prompts):
            if cache.in_prompt(row) != (prompt is None):
                raise WrongError(f"in_prompt({row}) is {cache.in_prompt(row)}")

    def reset(self, rows: list[int] | None = None) -> None:
        """Rows forgotten."""
        cache, sums = self.current
        chosen = None if rows is None else self.distinct(rows)
        cache.reset(chosen)
        for row in range(self.batch) if chosen is None else chosen:
            sums.reset(row)

    def crop(self, back: list[int]) -> None:
        """Positions taken back, ``back`` of each row; one number: all rows to one length."""
        cache, sums = self.current
        here = sums.positions
        if len(back) == 1:
            lengths = [max(max(here) - back[0], 0)] * self.batch
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
        cache, sums = self.current
        chosen = [rows[i % len(rows)] % self.batch for i in range(self.batch)]
        cache.reorder(chosen)
        sums.reorder(chosen)

    def branch(self, how: str) -> None:
        """A copy becomes the current one; the original stays, as one of at most three."""
        cache, sums = self.current
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
        cache, sums = self.current
        self._saved = cache.state_dict(), sums.clone()

    def load(self, impl: str | None = None, plan: list[Any] | None = None) -> None:
        """What was saved, into the current cache, or into a new one of another kind."""
        if self._saved is None:
            self.save()
        assert self._saved is not None
        state, sums = self._saved
        cache = self.current[0] if impl is None else self._cache(impl, plan)
        try:
            cache.load_state_dict(state)
        except ValueError as error:
            if "pending" in state and "plan" in str(error):
                return  # pending outputs are those of their plan
            raise
        sums = sums.clone()
        sums.loaded()
        sums.take_plan(cache.plan)
        self._pairs[self._current] = cache, sums

    def bad(self, which: int) -> None:
        """A call that is refused, and changes nothing."""
        cache, _ = self.current
        shape = (self.batch, self.channels)
        u = torch.zeros(shape, dtype=self.dtype)
        calls: list[Callable[[], Any]] = [
            lambda: cache.step(u[:, :-1]),
            lambda: cache.step(u, 1 + len(self.filters)),
            lambda: cache.step(u.to(torch.complex64)),
            lambda: cache.step(u, pre=u[:-1]),
            lambda: cache.step(u, out=u.double() if self.dtype != torch.float64 else u.float()),
            lambda: cache.step(u, rows=[self.batch]),
            lambda: cache.prefill(u),
            lambda: cache.prefill(u[..., None], lengths=[2] * self.batch),
            lambda: cache.prefill(u[:1, :, None], rows=[0, 0]),
            lambda: cache.crop([0] * (self.batch + 1)),
            lambda: cache.crop(-1),
            lambda: cache.reorder([0] * (self.batch + 1)),
            lambda: cache.reset([self.batch]),
            lambda: cache.load_state_dict({}),
            lambda: cache.run(u),
            lambda: cache.run(u[..., None].expand(-1, -1, self._setup["length"] + 1)),
            lambda: cache.generate(u, 0),
            lambda: cache.generate(u, self._setup["length"] + 1),
        ]
        self.refused(calls[which % len(calls)])

    def refused(self, call: Callable[[], Any]) -> None:
        """A call that has to raise what a caller can read."""
        try:
            call()
        except (ValueError, TypeError):
            return
        raise WrongError("a bad call was taken")

    def distinct(self, rows: list[int], *, padding: bool = False) -> list[int]:
        """Rows of the batch, each once, at least one."""
        found: list[int] = []
        for row in rows:
            if row < 0:
                if padding:
                    found.append(-1)
            elif row % self.batch not in found:
                found.append(row % self.batch)
        return found or [0]
