"""Programs on a DecodingCache: small models called in pieces against one parallel call."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import futurefill_kernels as ff
from futurefill_kernels.checks import state_dtype
from futurefill_kernels.nn import (
    STU,
    Hyena,
    LanguageModel,
    LanguageModelConfig,
    LongConv,
    ShortConv,
)
from futurefill_kernels.nn.filters import LongFilter

from .caches import DTYPES, WrongError, made_plan, written_and_read
from .program import Operation, Outcome, Program
from .stops import Stop, inside

VOCABULARY, CONTEXT, CHANNELS = 31, 96, 8
#: Longest prompt.
PROMPT = 60
#: Relative L2 error of the logits of a call, through all layers.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4, torch.bfloat16: 0.2}
#: The same where rings hold inputs in 16 bits.
NARROW = {torch.float16: 0.02, torch.bfloat16: 0.1}


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


def made_model(setup: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """The model of a program, without gradients, and its twin in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup["seed"])
        model = MODELS[setup["model"]]().requires_grad_(False)
    dtype = DTYPES[setup["dtype"]]
    model = model.to(dtype).eval()
    twin = copy.deepcopy(model).double()
    if setup.get("half_filters"):
        round_filters(twin, model, state_dtype(dtype), torch.bfloat16)
    return model, twin


def tolerance(setup: dict[str, Any]) -> float:
    """Relative L2 error of the logits of a program's model."""
    ring = setup.get("ring")
    return max(TOLERANCE[DTYPES[setup["dtype"]]], NARROW[DTYPES[ring]] if ring else 0.0)


def cache_options(setup: dict[str, Any], plan: list[Any] | None) -> dict[str, Any]:
    """What a program says of its caches beside sizes and implementation, as far as it fits a plan
    with slack: rollback 0 or None, kept spectra, and no ring of 16 bits.
    """
    made, ring = made_plan(plan, setup["length"]), setup.get("ring")
    rollback, memory = setup.get("rollback", 0), setup.get("memory", "speed")
    if made is not None and made.slack_from is not None:
        if ring:
            made = made_plan([plan[0], None], setup["length"])
        else:
            rollback, memory = rollback and 0, "speed"
    return {
        "plan": made, "rollback": rollback, "memory": memory,
        "state_dtype": DTYPES[ring] if ring else None,
        "filters_dtype": torch.bfloat16 if setup.get("half_filters") else None,
    }  # fmt: skip


def round_filters(
    twin: nn.Module, model: nn.Module, state: torch.dtype, kept_in: torch.dtype
) -> None:
    """The twin convolves with the rounded taps of the model."""
    for module, original in zip(twin.modules(), model.modules(), strict=True):
        if isinstance(original, LongFilter):
            h = original.taps_on(original.context_length, torch.device("cpu"), state)
            rounded = h.detach().to(kept_in).double()
            module.taps = lambda n, h=rounded: h[:, :n]  # type: ignore[assignment]


class Row:
    """The ids that a row is to see, what comes out of them, and how many it has seen.

    prompt: ids before its first step, None until then. furthest: the largest position since the
    newest load, which was at position loaded.
    """

    def __init__(self, ids: Tensor, logits: Tensor) -> None:
        self.ids, self.logits = ids, logits
        self.seen, self.prompt = 0, None
        self.furthest = self.loaded = 0

    prompt: int | None

    @property
    def position(self) -> int:
        """Taken since the prompt."""
        return 0 if self.prompt is None else self.seen - self.prompt

    def oldest(self, rollback: int | None) -> int:
        """The position that it can be taken back to for sure."""
        return self.loaded if rollback is None else max(self.loaded, self.furthest - rollback)


class ModelRun:
    """A model, a cache under way, and what every row has seen."""

    def __init__(self, program: Program, outcome: Outcome) -> None:
        setup = self._setup = program.setup
        self._outcome = outcome
        self._draw = torch.Generator("cpu").manual_seed(setup["seed"])
        self._tolerance = tolerance(setup)
        self._model, self._twin = made_model(setup)
        self._batch, self._length = setup["batch"], setup["length"]
        self._cache = self._new(setup["impl"], setup["plan"], setup["fused"])
        self._rows = [self._fresh() for _ in range(self._batch)]
        self._others: list[tuple[nn.Module, ff.DecodingCache, list[Row]]] = []
        self._saved: tuple[dict[str, Tensor], list[Row]] | None = None

    def _new(self, impl: str, plan: list[Any] | None, fused: bool) -> ff.DecodingCache:
        options = cache_options(self._setup, plan)
        return ff.DecodingCache(
            self._model, self._batch, self._length, impl=impl, fused=fused, **options
        )

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
        other.furthest, other.loaded = row.furthest, row.loaded
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
        stop: list[Any] | None = None,
        last: bool = False,
    ) -> None:
        """Calls of the model, of one id each or ragged. last: logits of last positions will do."""
        for _ in range(count):
            self._tokens(lengths, rows, stop, last=last)

    def _tokens(
        self,
        lengths: list[int] | None,
        rows: list[int] | None,
        stop: list[Any] | None,
        *,
        last: bool = False,
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
            with self._cache.select(given, ragged, last=last):
                if stop is None:
                    logits = self._model(ids, cache=self._cache)
                else:
                    with inside(stop[0], *stop[2:]):
                        logits = self._model(ids, cache=self._cache)
        except Stop:
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
            row.furthest = max(row.furthest, row.position)

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
            got = logits[i, :n]
            if logits.shape[1] < max(valid):  # of the last position alone
                expected = expected[-1:]
            error = (got.double() - expected).norm() / expected.norm()
            ratio = float(error) / self._tolerance
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

    def crop(self, back: list[int]) -> None:
        """Positions taken back, ``back`` of each row; other ids follow."""
        here = [row.position for row in self._rows]
        lengths = [max(p - back[i % len(back)], 0) for i, p in enumerate(here)]
        rollback = self._cache.rollback
        try:
            self._cache.crop(lengths)
        except ValueError as error:
            if all(
                n >= min(p, row.oldest(rollback))
                for n, p, row in zip(lengths, here, self._rows, strict=True)
            ):
                raise WrongError(f"crop was refused: {error}") from error
            return
        for i, (n, p) in enumerate(zip(lengths, here, strict=True)):
            if n < p:
                self._rows[i].seen -= p - n
                self._rows[i] = self._diverge(self._rows[i])

    def branch(self, how: str = "clone") -> None:
        """A copy becomes the current one; the original stays, as one of at most three."""
        self._others = [*self._others[-1:], (self._model, self._cache, self._rows)]
        both = self._model, self._cache
        if how == "pickle":
            self._model, self._cache = pickle.loads(pickle.dumps(both))
        elif how == "file":
            self._model, self._cache = written_and_read(both)
        else:
            self._cache = self._cache.clone() if how == "clone" else copy.deepcopy(self._cache)
        self._rows = [self._diverge(row) for row in self._rows]
        if how in ("pickle", "file"):
            _loaded(self._rows)

    def switch(self) -> None:
        """Another of the caches goes on."""
        if self._others:
            self._others.append((self._model, self._cache, self._rows))
            self._model, self._cache, self._rows = self._others.pop(0)

    def save(self) -> None:
        """The state as a dictionary, for `load`."""
        self._saved = self._cache.state_dict(), [copy.copy(row) for row in self._rows]

    def load(
        self, fused: bool | None = None, plan: list[Any] | None = None, impl: str | None = None
    ) -> None:
        """What was saved, into the current cache or a new one; other ids follow."""
        if self._saved is None:
            self.save()
        assert self._saved is not None
        state, rows = self._saved
        cache = self._cache
        if fused is not None:
            cache = self._new(impl or self._setup["impl"], plan, fused)
        try:
            cache.load_state_dict(state)
        except ValueError as error:
            if "plan" in str(error) and any(name.endswith("pending") for name in state):
                return  # pending outputs are those of their plan
            raise
        self._cache, self._rows = cache, [self._diverge(row) for row in rows]
        _loaded(self._rows)


def _loaded(rows: list[Row]) -> None:
    """What the rows hold was written from elsewhere, without a way back."""
    for row in rows:
        row.furthest = row.loaded = row.position
