"""Programs on a DecodingCache: small models called in pieces against one parallel call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import futurefill_kernels as ff
from futurefill_kernels.nn import (
    STU,
    Hyena,
    LanguageModel,
    LanguageModelConfig,
    LongConv,
    ShortConv,
)

from .interrupts import Interrupt, interrupted
from .program import Operation, Outcome, Program
from .streams import DTYPES, WrongError

VOCABULARY, CONTEXT, CHANNELS = 31, 96, 8
#: Longest prompt.
PROMPT = 60
#: Relative L2 error of the logits of a call, through all layers.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4, torch.bfloat16: 0.2}


class Mixed(nn.Module):
    """Mixers of every kind, filters of several shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, CHANNELS)
        self.mixers = nn.ModuleList(
            [
                Hyena(CHANNELS, CONTEXT),
                LongConv(CHANNELS, 9, groups=2, skip=False),
                STU(CHANNELS, CONTEXT, filters=3, tensorised=False),
                Hyena(CHANNELS, CONTEXT, order=3),
            ]
        )
        self.last = ShortConv(CHANNELS)
        self.head = nn.Linear(CHANNELS, VOCABULARY)

    def forward(self, ids: Tensor, cache: ff.DecodingCache | None = None) -> Tensor:
        """ids: (B, T). Returns logits (B, T, V)."""
        x = self.embedding(ids)
        for mixer in self.mixers:
            x = nn.functional.rms_norm(x + mixer(x, cache), (CHANNELS,))
        return self.head(self.last(x.transpose(1, 2), cache).transpose(1, 2))


def language_model(mixer: str, tensorised: bool = True) -> LanguageModel:
    """One of two blocks."""
    config = LanguageModelConfig(
        VOCABULARY, CONTEXT, CHANNELS, 2, 16, 8, mixer=mixer, spectral_filters=4,
        tensorised=tensorised,
    )  # fmt: skip
    return LanguageModel(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "hyena": lambda: language_model("hyena"),
    "stu": lambda: language_model("stu"),
    "stu-full": lambda: language_model("stu", False),
    "mixed": Mixed,
}


class Row:
    """The ids that a row is to see, what comes out of them, and how many it has seen.

    prompt: ids before its first step, None until then.
    """

    def __init__(self, ids: Tensor, logits: Tensor) -> None:
        self.ids, self.logits = ids, logits
        self.seen, self.prompt = 0, None

    prompt: int | None

    @property
    def position(self) -> int:
        """Taken since the prompt."""
        return 0 if self.prompt is None else self.seen - self.prompt


class ModelRun:
    """A model, a cache under way, and what every row has seen."""

    def __init__(self, program: Program, outcome: Outcome) -> None:
        setup = self._setup = program.setup
        self._outcome = outcome
        self._draw = torch.Generator("cpu").manual_seed(setup["seed"])
        self._dtype = DTYPES[setup["dtype"]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup["seed"])
            model = MODELS[setup["model"]]()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._model = model.to(self._dtype).eval()
        self._twin = copy.deepcopy(model).double()
        self._batch, self._length = setup["batch"], setup["length"]
        self._cache = self._new(setup["impl"], setup["plan"], setup["fused"])
        self._rows = [self._fresh() for _ in range(self._batch)]
        self._others: list[tuple[ff.DecodingCache, list[Row]]] = []

    def _new(self, impl: str, plan: list[Any] | None, fused: bool) -> ff.DecodingCache:
        length = self._length
        made = None if plan is None else ff.Plan(length, tuple(plan[0]), slack_from=plan[1])
        return ff.DecodingCache(self._model, self._batch, length, plan=made, impl=impl, fused=fused)

    def _fresh(self, begin: Tensor | None = None) -> Row:
        """A row of random ids behind some given ones."""
        begin = torch.empty(0, dtype=torch.int64) if begin is None else begin
        total = PROMPT + self._length
        more = torch.randint(VOCABULARY, (total - len(begin),), generator=self._draw)
        ids = torch.cat([begin, more])
        with torch.no_grad():
            return Row(ids, self._twin(ids[None])[0])

    def _diverge(self, row: Row) -> Row:
        """The same so far, other ids from here on."""
        other = self._fresh(row.ids[: row.seen])
        other.seen, other.prompt = row.seen, row.prompt
        return other

    @torch.no_grad()
    def do(self, operation: Operation) -> None:
        """One operation, and what must hold after any."""
        arguments = {name: value for name, value in operation.items() if name != "do"}
        getattr(self, operation["do"])(**arguments)
        expected = [row.position for row in self._rows]
        if self._cache.positions.tolist() != expected:
            raise WrongError(f"positions {self._cache.positions.tolist()}, expected {expected}")

    def tokens(
        self,
        count: int,
        lengths: list[int] | None = None,
        rows: list[int] | None = None,
        stop: list[int] | None = None,
    ) -> None:
        """Calls of the model, of one id each or ragged."""
        for _ in range(count):
            self._tokens(lengths, rows, stop)

    def _tokens(
        self, lengths: list[int] | None, rows: list[int] | None, stop: list[int] | None
    ) -> None:
        chosen = (
            range(self._batch)
            if rows is None
            else list(dict.fromkeys(row % self._batch for row in rows))
        )
        books = [self._rows[r] for r in chosen]
        wanted = [1 if lengths is None else lengths[i % len(lengths)] for i in range(len(books))]
        stepping = lengths is None and all(row.seen for row in books)
        valid = []
        for row, width in zip(books, wanted, strict=True):
            prompt = row.prompt is None and not stepping
            room = PROMPT - row.seen if prompt else self._length - row.position
            if room < 1:
                return self._reset_row_or_refuse(row, chosen, prompt)
            valid.append(min(width, room))
        ragged = None if lengths is None or (len(set(valid)) == 1 and valid[0] > 1) else valid
        width = max(valid)
        ids = torch.randint(VOCABULARY, (len(books), width), generator=self._draw)
        for i, (row, n) in enumerate(zip(books, valid, strict=True)):
            ids[i, :n] = row.ids[row.seen : row.seen + n]
        given = None if rows is None else list(chosen)
        before = self._cache.positions.tolist()
        try:
            with self._cache.select(given, ragged):
                if stop is None:
                    logits = self._model(ids, cache=self._cache)
                else:
                    with interrupted(stop[0]):
                        logits = self._model(ids, cache=self._cache)
        except Interrupt:
            assert stop is not None
            if stop[1]:
                self._cache.abort()
            if self._under_way() or self._cache.positions.tolist() == before:
                return None if stop[1] else self._tokens(lengths, rows, None)
        else:
            self._compare(books, valid, logits)
        for row, n in zip(books, valid, strict=True):
            if row.prompt is None and stepping:
                row.prompt = row.seen
            row.seen += n

    def _under_way(self) -> bool:
        """Whether a call stopped inside: the next one takes it back."""
        try:
            self._cache.clone()
        except ValueError:
            return True
        return False

    def _reset_row_or_refuse(self, row: Row, chosen: Any, prompt: bool) -> None:
        """No room: the cache says so where it is its own, and the row begins anew."""
        if not prompt:
            ids = torch.zeros(len(chosen), 1, dtype=torch.int64)
            try:
                with self._cache.select(list(chosen)):
                    self._model(ids, cache=self._cache)
            except ValueError:
                pass
            else:
                raise WrongError("a token was taken for which there is no room")
        self.reset([self._rows.index(row)])

    def _compare(self, books: list[Row], valid: list[int], logits: Tensor) -> None:
        self._outcome.cases += 1
        for i, (row, n) in enumerate(zip(books, valid, strict=True)):
            expected = row.logits[row.seen : row.seen + n]
            error = (logits[i, :n].double() - expected).norm() / expected.norm()
            ratio = float(error) / TOLERANCE[self._dtype]
            if not ratio <= 1:
                raise WrongError(f"row {i} of a call: relative error {float(error):.3g}")
            self._outcome.worst = max(self._outcome.worst, ratio)

    def reset(self, rows: list[int] | None = None) -> None:
        """Rows forgotten."""
        chosen = None if rows is None else sorted({row % self._batch for row in rows})
        self._cache.reset(chosen)
        for row in range(self._batch) if chosen is None else chosen:
            self._rows[row] = self._fresh()

    def reorder(self, rows: list[int]) -> None:
        """As in beam search; the rows differ from there on."""
        chosen = [rows[i % len(rows)] % self._batch for i in range(self._batch)]
        self._cache.reorder(chosen)
        self._rows = [self._diverge(self._rows[r]) for r in chosen]

    def branch(self) -> None:
        """A clone becomes the current one; the original stays, as one of at most three."""
        self._others = [*self._others[-1:], (self._cache, self._rows)]
        self._cache = self._cache.clone()
        self._rows = [self._diverge(row) for row in self._rows]

    def switch(self) -> None:
        """Another of the caches goes on."""
        if self._others:
            self._others.append((self._cache, self._rows))
            self._cache, self._rows = self._others.pop(0)
