"""Caches under way, each with its direct sums, and what is done to them as a whole."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import futurefill_kernels as ff

from . import values
from .direct import DirectSums
from .memory import out_of_memory
from .program import Operation, Outcome, Program
from .refusals import between_tokens

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class WrongError(Exception):
    """The cache did what it must not."""


def made_plan(
    plan: list[Any] | None, length: int | None, taps: int | None = None
) -> ff.Plan | None:
    """What a program says of a plan: block sizes, where slack and where made spectra begin."""
    if plan is None:
        return None
    sizes, slack, *made = plan
    return ff.Plan(
        length, tuple(sizes), taps, slack_from=slack, made_from=made[0] if made else None
    )


def written_and_read(x: Any) -> Any:
    """What torch.save writes of something, loaded again."""
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class Caches:
    """At most three caches of one setup; operations are about the current one."""

    def __init__(self, program: Program, outcome: Outcome) -> None:
        setup, self.outcome = program.setup, outcome
        self._setup, self.layers = setup, len(setup["taps"])
        self.draw = np.random.default_rng(setup["seed"])
        self.dtype = DTYPES[setup["dtype"]]
        wide = self.dtype == torch.float64 or setup.get("wide", False)
        self._state = state = torch.float64 if wide else torch.float32
        self._ring = DTYPES[setup["ring"]] if setup.get("ring") else state
        self.channels, self.batch = setup["groups"] * setup["expand"], setup["batch"]
        self._first = self._filters(setup["taps"], self._some_skip() if setup["skip"] else None)
        sums = DirectSums(
            self._first,
            self.batch,
            None if setup.get("endless") else setup["length"],
            self.dtype,
            state_dtype=state,
            ring_dtype=self._ring,
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

    def _filters(self, taps: list[int], skip: Tensor | None) -> values.Filters:
        groups, kind = self._setup["groups"], self._setup["values"]
        drawn = [torch.from_numpy(values.filters(self.draw, kind, groups, n)) for n in taps]
        kept_in = torch.bfloat16 if self._setup.get("half_filters") else self._state
        return values.Filters([h.to(self._state) for h in drawn], skip, self.channels, kept_in)

    def _some_skip(self) -> Tensor:
        return values.inputs(self.draw, (self.layers, self.channels), self._state)

    def _cache(
        self, impl: str, plan: list[Any] | None, *, wide_ring: bool = False
    ) -> ff.FutureFillCache:
        length, rollback = self._setup["length"], self._setup["rollback"]
        memory = self._setup.get("memory", "speed")
        ring = self._state if wide_ring or impl == "triton" else self._ring
        if plan is not None and plan[1] is not None:  # slack: 0 or None, and kept spectra
            if ring is self._state:
                rollback, memory = rollback and 0, "speed"
            else:  # which has no slack
                plan = [plan[0], None]
        if self._setup.get("endless"):
            length, rollback = None, rollback or 0
        return ff.FutureFillCache(
            self._first.taps,
            self.batch,
            length,
            channels=self.channels,
            skip=self._first.skip,
            plan=made_plan(plan, length, max(self._setup["taps"])),
            impl=impl,
            dtype=self.dtype,
            rollback=rollback,
            state_dtype=ring,
            filters_dtype=self._first.kept_in,
            memory=memory,
        )

    def do(self, operation: Operation) -> None:
        """One operation, and what must hold after any. fail: the number of an allocation of it that
        there is no memory for, and whether it is done again then.
        """
        arguments = {name: value for name, value in operation.items() if name not in ("do", "fail")}
        done, fail = getattr(self, operation["do"]), operation.get("fail")
        if fail is None:
            done(**arguments)
        else:
            try:
                with out_of_memory(fail[0]):
                    done(**arguments)
            except MemoryError:
                if fail[1]:
                    done(**arguments)
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

    def refilter(self, taps: int) -> None:
        """Other filters of about so many taps from now on, sometimes another skip."""
        cache, sums = self.current
        reach = cache.plan.filter_length
        assert reach is not None
        most = max(self._setup["taps"]) if reach == cache.plan.length else reach
        others = self._filters(
            [min(taps + layer, most) for layer in range(self.layers)],
            self._some_skip() if self.draw.random() < 0.5 else None,
        )
        try:
            cache.set_filters(others.taps, others.skip)
        except ValueError as error:
            longest = max(reach, *(h.shape[1] for h in others.taps))
            needed = None if cache.state.prompt_fill is not None else longest
            if all(sums.has_inputs(row, needed) for row in range(self.batch)):
                raise WrongError(f"set_filters was refused: {error}") from error
            return
        if others.skip is None:
            others = dataclasses.replace(others, skip=sums.filters.skip)
        sums.refilter(others)

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
            "file": written_and_read,
        }
        self._pairs.append((copies[how](cache), sums.clone()))
        if how in ("pickle", "file"):
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

    def load(
        self, impl: str | None = None, plan: list[Any] | None = None, wide_ring: bool = False
    ) -> None:
        """What was saved, into the current cache, or into a new one of another kind. wide_ring:
        that stores what it computes with.
        """
        if self._saved is None:
            self.save()
        assert self._saved is not None
        state, sums = self._saved
        cache, here = self.current
        if impl is not None:
            cache = self._cache(impl, plan, wide_ring=wide_ring)
            if sums.filters is not self._first:
                cache.set_filters(sums.filters.taps, sums.filters.skip)
        try:
            cache.load_state_dict(state)
        except ValueError as error:
            if "pending" in state and "plan" in str(error):
                return  # pending outputs are those of their plan
            if impl is None and here.filters is not sums.filters and "same filters" in str(error):
                return
            raise
        sums = sums.clone()
        sums.loaded()
        sums.take_plan(cache.plan)
        self._pairs[self._current] = cache, sums

    def bad(self, which: int) -> None:
        """A call that is refused, and changes nothing."""
        cache = self.current[0]
        calls = between_tokens(cache, self._first)
        finished = cache.calls
        self.refused(calls[which % len(calls)])
        if cache.calls != finished:
            raise WrongError("a refused call was counted")

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
