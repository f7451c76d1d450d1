"""Programs on a Decoder: requests with every kind of end against one parallel call and plain rules.

Ids are drawn beforehand and handed over by a sampler that also compares the logits it is given; the
greedy ones are compared afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import futurefill_kernels as ff

from .caches import WrongError
from .models import CHANNELS, VOCABULARY, cache_options, made_model, tolerance
from .program import Operation, Outcome, Program

PAD = VOCABULARY - 1


class RequestRun:
    """A model and a decoder that takes one request after the other."""

    def __init__(self, program: Program, outcome: Outcome) -> None:
        setup = self._setup = program.setup
        self._outcome = outcome
        self._draw = torch.Generator("cpu").manual_seed(setup["seed"])
        self._model, self._twin = made_model(setup)
        self._batch, self._length = setup["batch"], setup["length"]
        self._tolerance = tolerance(setup)
        self._options = {"impl": setup["impl"], **cache_options(setup, setup["plan"])}
        self._decoder = ff.Decoder(self._model, self._batch, self._length, **self._options)

    @torch.no_grad()
    def do(self, operation: Operation) -> None:
        """One request."""
        arguments = {name: value for name, value in operation.items() if name != "do"}
        getattr(self, operation["do"])(**arguments)

    def request(
        self,
        lengths: list[int],
        new: int,
        how: str = "call",
        form: str = "list",
        width: int = 2,
        stop_ids: list[int] | None = None,
        stop: list[list[int]] | None = None,
        text: bool = False,
        end: int | None = None,
        greedy: bool = False,
    ) -> None:
        """Prompts of these lengths and at most ``new`` ids, of ``width`` different ones where they
        are not the most likely. text: stops are strings. end: the token whose callback ends it.
        """
        rows, new = min(len(lengths), self._batch), min(new, self._length)
        lengths = lengths[:rows]
        prompts = [torch.randint(VOCABULARY, (n,), generator=self._draw) for n in lengths]
        drawn = torch.randint(width, (rows, new), generator=self._draw)
        ends = [_end(row, stop_ids or [], stop or []) for row in drawn.tolist()]
        tape = _Tape(self, prompts, drawn, ends)
        options = self._prompt(prompts, form) | {"pad_id": PAD, "stop_ids": stop_ids or ()}
        if not greedy:
            options["sampler"] = tape
        if stop:
            options["stop"] = [_text(one) for one in stop] if text else stop
            options["detokenize"] = _text if text else None
        if how == "iterate":
            columns = []
            for ids in self._decoder.iterate(max_new_tokens=new, **options):
                columns.append(ids)
                if end is not None and len(columns) > end:
                    break
            got = torch.stack(columns, 1) if columns else torch.zeros(rows, 0, dtype=torch.int64)
        else:
            if end is not None:
                options["callback"] = lambda ids, t: t >= end
            if how == "decode":
                sizes = {**self._setup, "length": max(new, 1)}
                made = cache_options(sizes, self._setup["plan"])
                del made["rollback"]
                impl = self._setup["impl"]
                got = ff.decode(self._model, max_new_tokens=new, impl=impl, **options, **made)
            else:
                got = self._decoder(max_new_tokens=new, **options)
        self._check(prompts, got, got if greedy else drawn, stop_ids or [], stop or [], end)
        if got.shape != (rows, new) and how != "iterate":
            raise WrongError(f"ids {tuple(got.shape)}, expected {(rows, new)}")

    def _prompt(self, prompts: list[Tensor], form: str) -> dict[str, Any]:
        """prompt, and what says where it is padded."""
        if form == "list":
            return {"prompt": prompts}
        left = form == "left"
        longest = max(map(len, prompts))
        padded = torch.full((len(prompts), longest), PAD)
        mask = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for i, ids in enumerate(prompts):
            here = slice(longest - len(ids), None) if left else slice(len(ids))
            padded[i, here], mask[i, here] = ids, 1
        if left:
            return {"prompt": padded, "attention_mask": mask}
        return {"prompt": padded, "lengths": [len(ids) for ids in prompts]}

    def _check(
        self,
        prompts: list[Tensor],
        got: Tensor,
        drawn: Tensor,
        stop_ids: list[int],
        stop: list[list[int]],
        end: int | None,
    ) -> None:
        """Ids (R, N), or the columns that came, against plain rules; drawn: what was chosen."""
        self._outcome.cases += 1
        ends = [_end(row, stop_ids, stop) for row in drawn.tolist()]
        expected = drawn.clone()
        for row, n in zip(expected, ends, strict=True):
            row[n:] = PAD
        if end is not None:
            expected[:, end + 1 :] = PAD
        for i, (ids, n) in enumerate(zip(expected, ends, strict=True)):
            if not torch.equal(got[i], ids[: got.shape[1]]) or (ids[got.shape[1] :] != PAD).any():
                raise WrongError(f"row {i}: ids {got[i].tolist()}, expected {ids.tolist()}")
            if drawn is got:
                chosen = got[i, : n if end is None else min(n, end + 1)]
                self.most_likely(torch.cat([prompts[i], chosen]), len(prompts[i]))

    def logits(self, ids: Tensor) -> Tensor:
        """(T, V) float64 of ids (T,)."""
        return self._twin(ids[None])[0]

    def most_likely(self, ids: Tensor, begin: int) -> None:
        """WrongError where one of the ids from ``begin`` on is not the most likely after others."""
        if begin < len(ids):
            logits = self.logits(ids)[begin - 1 : -1]
            missing = logits.amax(-1) - logits.gather(-1, ids[begin:, None])[:, 0]
            if (missing > self._tolerance * logits.norm(dim=-1)).any():
                raise WrongError(f"greedy ids {ids[begin:].tolist()} are not the most likely")

    def compare(self, got: Tensor, expected: Tensor) -> None:
        """Logits (V,) of one position."""
        error = float((got.double() - expected).norm() / expected.norm())
        ratio = error / (self._tolerance * CHANNELS**0.5)
        if not ratio <= 1:
            raise WrongError(f"logits in a request: relative error {error:.3g}")
        self._outcome.worst = max(self._outcome.worst, ratio)

    def count(self) -> None:
        """One more compared operation."""
        self._outcome.cases += 1


class _Tape:
    """A sampler that hands over ids that were drawn before, one token after the other.

    ends: how many of each row's count.
    """

    def __init__(
        self, run: RequestRun, prompts: list[Tensor], drawn: Tensor, ends: list[int]
    ) -> None:
        self._run, self._drawn, self._ends, self._t = run, drawn, ends, 0
        self._begins = [len(ids) - 1 for ids in prompts]
        self._right = [
            run.logits(torch.cat([ids, more])) for ids, more in zip(prompts, drawn, strict=True)
        ]

    def __call__(self, logits: Tensor) -> Tensor:
        new = torch.zeros(len(logits), dtype=torch.int64)
        if self._t < self._drawn.shape[1]:
            for row, (begin, right) in enumerate(zip(self._begins, self._right, strict=True)):
                if self._t < self._ends[row]:
                    self._run.compare(logits[row], right[begin + self._t])
            new[: len(self._drawn)] = self._drawn[:, self._t]
        self._t += 1
        self._run.count()
        return new


def _end(ids: list[int], stop_ids: list[int], stop: list[list[int]]) -> int:
    """How many of the ids there are when a stop has been met."""
    for n in range(1, len(ids) + 1):
        if ids[n - 1] in stop_ids or any(ids[max(n - len(s), 0) : n] == s for s in stop):
            return n
    return len(ids)


def _text(ids: list[int]) -> str:
    return "".join(chr(97 + i) for i in ids)
