"""DecodingCache: the decoding state of a whole model, handed to its mixers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..cache.cache import FutureFillCache
from ..cache.checks import crop_lengths
from ..checks import Rows, integer, row_indices, valid_lengths
from ..nn.brackets import Bracketed, watch
from ..nn.filters import LongFilter
from ..nn.short_conv import ShortConv, ShortConvState, commit, keep_left, keep_oldest
from ..nn.token import cpu, gpu
from ..nn.token.fuse import fuse
from ..plan import Plan
from ..planning.capabilities import Capabilities
from ..state.lasting import lasting
from .calls import Call, Selection, begin_call
from .changed_model import ChangedModel
from .long_convs import (
    ModelOptions,
    activations_of,
    cache_of_filters,
    common_dtype,
    equal_filters,
)
from .saved_model import check_pickles, check_same, split


class DecodingCache(Bracketed):
    """State of every `LongFilter` and `ShortConv` of a model, allocated once.

    The first call ``model(x, cache=cache)`` is the prompt; after it, a call with one position is a
    step and a longer one continues the prompt or, after the first step, the stream. All filters of
    equal shape are layers of one `FutureFillCache`, in the order of ``model.modules()``, which has
    to be the order of the calls. Each runs once in a call of the model: one that runs twice or not
    at all is a ValueError, and a call that fails leaves every row as it was.

    model: its weights are read here, once: a call after filters have changed is a ValueError (what
    is written through ``.data`` is not noticed). batch_size: rows
    ``B``. max_new_tokens: positions ``N`` that follow the prompt. plan, impl, fill_stream,
    spectra_dtype: as in `FutureFillCache`. fused: take few calls for tokens (`FusedToken`)
    where ``not_fused`` has no reason against it; on a GPU those of all rows. rollback: positions
    that ``crop`` can take back, at most ``N``; None for any number.
    """

    @lasting
    def __init__(
        self,
        model: nn.Module,
        batch_size: int,
        max_new_tokens: int,
        *,
        plan: Plan | None = None,
        impl: str = "auto",
        fused: bool = True,
        fill_stream: torch.cuda.Stream | None = None,
        spectra_dtype: torch.dtype | None = None,
        rollback: int | None = 0,
    ) -> None:
        batch_size = integer("batch_size", batch_size)
        max_new_tokens = integer("max_new_tokens", max_new_tokens)
        if rollback is not None:
            rollback = integer("rollback", rollback)
        groups = equal_filters(model.modules())
        if not groups:
            raise ValueError(f"{type(model).__name__} has no ff.nn mixers, expected at least one")
        options: ModelOptions = {
            "plan": plan, "impl": impl, "fill_stream": fill_stream, "spectra_dtype": spectra_dtype,
            "rollback": rollback,
        }  # fmt: skip
        dtype, device = activations_of(model)
        caches = [
            cache_of_filters(f, batch_size, max_new_tokens, options, dtype, device) for f in groups
        ]
        self._hold(model, caches, fused)

    def _hold(self, model: nn.Module, caches: list[FutureFillCache], fused: bool) -> None:
        """Everything but the caches, which are those of the model's groups of filters."""
        batch_size, max_new_tokens = caches[0].batch_size, caches[0].max_new_tokens
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self._model, self._caches, rollback = model, caches, caches[0].rollback
        self._modules = [m for m in model.modules() if isinstance(m, LongFilter | ShortConv)]
        self._names = {m: n for n, m in model.named_modules() if m in set(self._modules)}
        self._place = {
            module: (index, layer)
            for index, filters in enumerate(equal_filters(self._modules))
            for layer, module in enumerate(filters)
        }
        self._short = {
            module: ShortConvState(
                module, batch_size, max_new_tokens if rollback is None else rollback
            )
            for module in self._modules
            if isinstance(module, ShortConv)
        }
        self._selection = Selection()
        self._next = 0
        self._call: Call | None = None
        self._capturing = self._replaying = False
        # of the call under way: what its caches had finished, and where their rows were
        self._before: tuple[list[int], list[int]] | None = None
        self._counts: list[int] = []  # of a replayed token: what the caches had finished
        # whether a row has seen anything
        self._seen = torch.zeros(batch_size, dtype=torch.bool, device="cpu")
        self._all_seen = False
        self._fused: cpu.FusedToken | gpu.FusedToken | None = None
        self._never_fused = ["fused=False"]
        if fused:
            self._fused, self._never_fused = fuse(
                model, batch_size, self._place, self._short, self._caches
            )
        self._captured_fused = self._ran_fused = False
        self._reasons: list[str] = []  # of the call under way: why it is not fused
        # of the call under way: the outermost module that `watch` told of
        self._root: nn.Module | None = None
        watch(model, self._modules)
        by_name: dict[str, nn.Module] = {n: m for m, n in self._names.items()}
        self._changed = ChangedModel(model, by_name, whole=self._fused is not None)

    @property
    def caches(self) -> list[FutureFillCache]:
        """The caches of the long filters, for those who prove and measure."""
        return self._caches

    @property
    def fused(self) -> cpu.FusedToken | gpu.FusedToken | None:
        """What takes few calls for a token, or None; ``not_fused`` says why."""
        return self._fused

    @property
    def not_fused(self) -> list[str]:
        """Why tokens take one call per layer, as things are now; empty when they are fused."""
        return self._never_fused if self._fused is None else self._changed.look()

    @property
    def positions(self) -> Tensor:
        """(B,) int64: positions taken since the prompt."""
        return self._caches[0].positions

    @property
    def plan(self) -> Plan:
        """The plan of the first group of filters."""
        return self._caches[0].plan

    @property
    def impl(self) -> str:
        """Name of the implementation that runs."""
        return self._caches[0].impl

    @property
    def capabilities(self) -> Capabilities:
        """What the implementation that runs can do."""
        return self._caches[0].capabilities

    @property
    def rollback(self) -> int | None:
        """Positions that ``crop`` can take back, None for any number."""
        return self._caches[0].rollback

    @property
    def nbytes(self) -> int:
        """Bytes of all state and prepared filters; independent of the prompt's length."""
        short = sum(s.nbytes for s in self._short.values())
        if self._fused is not None:  # its scratch holds the short convolutions' inputs
            short += self._fused.nbytes - sum(s.inputs.nbytes for s in self._short.values())
        return sum(cache.nbytes for cache in self._caches) + short

    @contextmanager
    def select(
        self,
        rows: Rows | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        last: bool = False,
    ) -> Iterator[None]:
        """Inside, calls of the model are about some rows or about right-padded prompts.

        rows: the R rows that the call's batch stands for. lengths: (R,) valid positions of each.
        last: logits of the last valid position of every row are enough, where the model can
        (`ff.nn.LanguageModel` can, by ``wanted``); else they are of all positions.
        """
        chosen = None if rows is None else row_indices(rows, self.batch_size)
        self._selection = Selection(chosen, lengths, last)
        try:
            yield
        finally:
            self._selection = Selection()

    def fused_token(self, model: nn.Module, ids: Tensor) -> Tensor | None:
        """Logits (R, 1, V) of a token ids (R, 1), or None where layers go one by one.

        None too for calls that need checks or raise: the layers know what to say.
        """
        if self._root is None:
            self._begin()
        fused, rows = self._fused, self._selection.rows
        if (
            fused is None
            or model is not fused.model
            or not (self._all_seen or self._have_seen(rows))
            or (self._capturing if isinstance(fused, cpu.FusedToken) else rows is not None)
            or self._selection.lengths is not None
            or ids.shape != (self.batch_size if rows is None else len(rows), 1)
            or ids.dtype is not torch.int64
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled(ids.device.type)
            or (isinstance(fused, cpu.FusedToken) and not fused.takes(self._caches))
            or not self._have_room(rows)
            or self._reasons
        ):
            return None
        self._ran_fused = True
        if not self._capturing:
            self._keep_oldest(rows)
        if isinstance(fused, gpu.FusedToken) and self._capturing:
            self._captured_fused = True
            return fused(ids.contiguous())
        if isinstance(fused, cpu.FusedToken):
            fused.begin(rows)
        self._call, self._before = None, self._here()
        for cache in self._caches:
            cache.begin_token(rows)
        if isinstance(fused, cpu.FusedToken):
            logits = fused(ids.contiguous(), self._caches)
        else:
            logits = fused(ids.contiguous()).clone()
        for cache in self._caches:
            cache.finish_token(rows)
        if self._root is None:
            self._finish()
        return logits

    def wanted(self, x: Tensor) -> Tensor:
        """The positions of x (R, T, D) of which the caller reads outputs: (R, 1, D), or all."""
        if not self._selection.last:
            return x
        lengths = valid_lengths(self._selection.lengths, x.shape[0], x.shape[1])
        rows = torch.arange(len(lengths), device=x.device)
        return x[rows, torch.tensor(lengths, device=x.device) - 1][:, None]

    def long_conv(
        self, module: LongFilter, u: Tensor, pre: Tensor | None, post: Tensor | None
    ) -> Tensor:
        """What ``module(u, pre=pre, post=post)`` adds for these tokens. u: (R, D, T)."""
        call = self._enter(module, u)
        index, layer = self._place[module]
        cache, rows, dtype = self._caches[index], call.rows, u.dtype
        common = common_dtype(cache, u, pre, post)
        if common is not dtype:
            u = u.to(common)
        pre = pre if pre is None else pre.to(common)
        post = post if post is None else post.to(common)
        if call.stepping:
            pre = pre if pre is None else pre[..., 0]
            post = post if post is None else post[..., 0]
            y = cache.step(u[..., 0], layer, pre=pre, post=post, rows=rows)[..., None]
        else:
            lengths = call.lengths if call.padded else None
            y = cache.prefill(u, layer, pre=pre, post=post, rows=rows, lengths=lengths)
        self._leave()
        return y.to(dtype)

    def short_conv(self, module: ShortConv, x: Tensor) -> Tensor:
        """What ``module(x)`` gives for these tokens. x: (R, C, T)."""
        call = self._enter(module, x)
        state = self._short[module]
        if call.stepping:
            y = state.step(x[..., 0], call.rows)[..., None]
        else:
            y = state.prefill(x, call.rows, call.lengths if call.padded else None)
        self._leave()
        return y

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Inside, a call of the model launches one step of all rows, and no book is kept of it.

        Positions come from the device, so the launches serve every token. Around every replay
        stand ``begin_token`` and ``finish_token``; one before the capture, too, which does all that
        the host has to do.
        """
        with ExitStack() as stack:
            for cache in self._caches:
                stack.enter_context(cache.capture())
            self._capturing, self._captured_fused = True, False
            try:
                yield
            finally:
                self._capturing = False

    def begin_token(self) -> None:
        """Before a replay. ValueError when it would be one position too many in some row."""
        if self._before is not None or self._replaying:
            self.abort()
        self._counts = [cache.calls for cache in self._caches]
        self._keep_oldest(None)
        for cache in self._caches:
            cache.begin_token()
        self._replaying = True

    def finish_token(self) -> None:
        """After a replay: keep its books, and launch what fills are due."""
        for cache in self._caches:
            cache.finish_token()
        if isinstance(self._fused, gpu.FusedToken) and self._captured_fused:
            self._fused.finish()
        self._replaying = False

    def draw_greedy(self, logits: Tensor) -> Tensor:
        """The lowest id of every row's largest logit, (B,). logits: (B, V) of a token just now.

        Inside `capture`, a fused token on a GPU has searched them on its way.
        """
        if not (self._capturing and self._captured_fused):
            return logits.argmax(-1)
        assert isinstance(self._fused, gpu.FusedToken)
        ids = torch.empty(self.batch_size, 1, dtype=torch.int64, device=logits.device)
        self._fused.draw_greedy(ids)
        return ids[:, 0]

    def sum_history(self, stream: torch.cuda.Stream | None = None) -> None:
        """Launch now what the next token of all rows needs of older inputs, as
        ``FutureFillCache.sum_history``.
        """
        for cache in self._caches:
            cache.sum_history(stream)

    def abort(self) -> None:
        """Take back the call of the model, or the replayed token, that is under way: every row is
        as before it.

        For use after an exception inside a call; without one under way nothing happens. A replayed
        token is under way until ``finish_token``. `ff.nn.LanguageModel` does this by itself at its
        next call; to the cache alone a second call and a layer called twice look alike.
        """
        before, first = self._before, self._caches[0]
        if self._replaying:  # a cache whose books are done is one position further
            done = first.calls - self._counts[0]
            before = self._counts, [p - done for p in first.taken]
        if before is None:
            return
        if self._replaying and self._fused is not None and self._captured_fused:
            self._fused.abort()
        elif self._replaying:
            here = torch.tensor(before[1], dtype=torch.int64, device=first.device)
            ran = first.state.positions > here  # a replay has run as a whole or not at all
            for state in self._short.values():
                state.take_back(ran)
        elif self._call is not None:
            for state in self._short.values():
                state.drop_staged()
        elif self._fused is not None:
            self._fused.abort()
        rows = self._rows_of_call()
        counts, positions = before
        if self._replaying or self._call is None:  # of a whole token, whose oldest are kept
            for state in self._short.values():
                state.put_back_oldest(rows, [positions[row] for row in rows])
        for cache, count in zip(self._caches, counts, strict=True):
            cache.abort()
            if cache.calls != count:  # its part of the call was done
                cache.take_back({row: positions[row] for row in rows})
        self._next, self._before, self._call, self._replaying = 0, None, None, False
        self._root = None

    def crop(self, length: int | Sequence[int] | Tensor) -> None:
        """Take back all positions from ``length`` on, counted since the prompt: what follows is as
        if they had never been.

        length: of every row, or (B,) one for each. ValueError where that is more than ``rollback``
        positions of a row, or before where it was loaded.
        """
        self._between_calls("crop")
        lengths, before = crop_lengths(length, self.batch_size), list(self._caches[0].taken)
        for cache in self._caches:  # all are at the same positions: the first refuses, or none
            cache.crop(lengths)
        rows = [row for row, n in enumerate(lengths) if n < before[row]]
        if rows:
            for state in self._short.values():
                state.crop(rows, [before[row] for row in rows], [lengths[row] for row in rows])

    def reset(self, rows: Rows | None = None) -> None:
        """Forget everything the rows (default all) have seen."""
        if rows is None:
            self.abort()
        self._between_calls("reset")
        chosen = (
            list(range(self.batch_size)) if rows is None else row_indices(rows, self.batch_size)
        )
        for cache in self._caches:
            cache.reset(rows)
        for state in self._short.values():
            state.reset(chosen)
        self._seen[chosen] = False
        self._all_seen = False

    @lasting
    def clone(self) -> DecodingCache:
        """An independent cache in the same state; prepared filters are shared."""
        self._between_calls("clone")
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._caches = [cache.clone() for cache in self._caches]
        other._short = {module: state.clone() for module, state in self._short.items()}
        other._seen = self._seen.clone()
        if self._fused is not None:
            other._fused = self._fused.clone(other._short, other._caches)
        return other

    __copy__ = clone

    def __deepcopy__(self, memo: dict[int, Any]) -> DecodingCache:
        return self.clone()

    def __reduce__(self) -> tuple[Callable[..., DecodingCache], tuple[Any, ...]]:
        """What pickle writes: the model, and what makes its state again."""
        self._between_calls("pickle")
        check_pickles(self._model)
        fused = self._never_fused != ["fused=False"]
        newest = [state.newest.clone() for state in self._short.values()]
        return self._unpickled, (self._model, self._caches, fused, newest, self._seen)

    @classmethod
    @lasting
    def _unpickled(
        cls,
        model: nn.Module,
        caches: list[FutureFillCache],
        fused: bool,
        newest: list[Tensor],
        seen: Tensor,
    ) -> DecodingCache:
        cache = cls.__new__(cls)
        cache._hold(model, caches, fused)
        cache._take_over(newest, seen)
        return cache

    def _take_over(self, newest: Sequence[Tensor], seen: Tensor) -> None:
        """What short convolutions need next, and which rows have seen anything."""
        for state, inputs in zip(self._short.values(), newest, strict=True):
            state.newest.copy_(inputs)
            state.drop_staged()
        self._seen.copy_(seen)
        self._all_seen = bool(self._seen.all())

    def state_dict(self) -> dict[str, Tensor]:
        """What determines the state: for a cache of the same model and sizes.

        seen: (B,) bool, rows that have seen anything. caches.I.NAME: of every cache of long filters
        what ``FutureFillCache.state_dict`` has. short.MODULE.inputs: (B, k - 1, C), what a short
        convolution needs, and short.MODULE.taps (k, C), which tell it from another.
        """
        self._between_calls("state_dict")
        saved = {"seen": self._seen.clone()}
        for part, cache in self._cache_parts().items():
            saved |= {f"{part}.{name}": x for name, x in cache.state_dict().items()}
        for part, state in self._short_parts().items():
            saved[f"{part}.inputs"] = state.newest.clone()
            saved[f"{part}.taps"] = state.taps.clone()
        return saved

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state_dict`` of a cache of the same model and sizes returned; without
        prompt_fill also of equal plans. Positions before it cannot be taken back then.

        ValueError or TypeError where it does not fit, before anything changes.
        """
        caches, short = self._cache_parts(), self._short_parts()
        parts = split(state, [*caches, *short])
        check_same("seen", parts[""]["seen"], self._seen.shape, torch.bool)
        for part, cache in caches.items():
            cache.check_state_dict(parts[part])
            if not torch.equal(parts[part]["positions"], parts["caches.0"]["positions"]):
                raise ValueError(f"expected {part}.positions to be those of caches.0")
        for part, conv in short.items():
            saved = parts[part]
            check_same(f"{part}.inputs", saved.get("inputs"), conv.newest.shape, conv.inputs.dtype)
            check_same(f"{part}.taps", saved.get("taps"), conv.taps.shape, conv.taps.dtype)
            if not torch.allclose(saved["taps"].to(conv.taps.device), conv.taps):
                raise ValueError(f"expected a state of the same taps, {part} has others")
        self.abort()
        for part, cache in caches.items():
            cache.load_state_dict(parts[part])
        self._take_over([parts[part]["inputs"] for part in short], parts[""]["seen"])

    def _cache_parts(self) -> dict[str, FutureFillCache]:
        return {f"caches.{index}": cache for index, cache in enumerate(self._caches)}

    def _short_parts(self) -> dict[str, ShortConvState]:
        return {f"short.{self._names[module]}": state for module, state in self._short.items()}

    def reorder(self, rows: Rows) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was (beam search). rows: (B,)."""
        self._between_calls("reorder")
        chosen = row_indices(rows, self.batch_size, unique=False)
        if len(chosen) != self.batch_size:
            raise ValueError(f"expected rows (B,) = ({self.batch_size},), got ({len(chosen)},)")
        for cache in self._caches:
            cache.reorder(chosen)
        for state in self._short.values():
            state.reorder(chosen)
        self._seen[:] = self._seen[chosen]
        self._all_seen = bool(self._seen.all())

    def _between_calls(self, method: str) -> None:
        if self._before is not None or self._replaying:
            raise ValueError(
                f"{method} needs a finished call of the model; this one stopped inside "
                "(abort takes it back)"
            )

    def _have_seen(self, rows: list[int] | None) -> bool:
        """Whether all the rows have seen something."""
        return rows is not None and bool(self._seen[rows].all())

    def _have_room(self, rows: list[int] | None) -> bool:
        """Whether no row would take one position too many."""
        if rows is None:
            return not any(cache.full for cache in self._caches)
        first = self._caches[0]  # all have the same positions
        return all(first.room(row) > 0 for row in rows)

    def _keep_oldest(self, rows: Sequence[int] | None) -> None:
        """Keep what leaves short convolutions with the next token of rows (None: all)."""
        if self._short and self.rollback != 0:
            chosen, taken = range(self.batch_size) if rows is None else rows, self._caches[0].taken
            keep_oldest(self._short.values(), chosen, [taken[row] for row in chosen])

    def _keep_left(self, call: Call, before: Sequence[int]) -> None:
        """The same for a call whose long convolutions are done. before: positions of rows."""
        rows, taken = self._rows_of_call(), self._caches[0].taken
        at = [before[row] for row in rows]
        if call.stepping:
            keep_oldest(self._short.values(), rows, at)
        else:  # nothing of a prompt, which does not move positions
            counts = [taken[row] - before[row] for row in rows]
            keep_left(self._short.values(), rows, at, counts)

    def _rows_of_call(self) -> Sequence[int]:
        """Rows of the call, or of the replayed token, that is under way."""
        rows = None
        if self._replaying:
            pass  # of all
        elif self._call is not None:
            rows = self._call.rows
        elif isinstance(self._fused, cpu.FusedToken):
            rows = self._fused.rows
        return range(self.batch_size) if rows is None else rows

    def _here(self) -> tuple[list[int], list[int]]:
        """What the caches have finished, and where their rows are."""
        return [cache.calls for cache in self._caches], list(self._caches[0].taken)

    def begin_call(self, module: nn.Module) -> None:
        """`Bracketed`: take back what an earlier call has left, and look at the model."""
        if self._root is not None and self._root is not module:
            return  # a part of a call
        self._root = None
        self._begin()
        self._root = module

    def end_call(self, module: nn.Module, failed: bool) -> None:
        """`Bracketed`: every convolution has run once, or the call is taken back."""
        if module is not self._root:
            return
        missing = self._modules[self._next :]
        whole = not failed and (self._ran_fused or not missing)
        self._root = None
        if whole:
            self._finish()
            return
        if self._capturing:  # whoever captures takes the token back
            self._next = 0
        else:
            self.abort()
        if not failed:
            count, name = len(self._modules), self._names[missing[0]]
            raise ValueError(
                f"the call of {type(module).__name__} ended after {count - len(missing)} of "
                f"{count} convolutions, without {name!r}, and was taken back: expected each to "
                "run once. A model that leaves layers out (early exit, auxiliary heads) needs a "
                "DecodingCache of a module that holds only those that run"
            )

    def _begin(self) -> None:
        self._ran_fused = False
        if self._capturing:  # a graph is of what was found before
            return
        if self._before is not None or self._replaying:
            self.abort()
        self._reasons = self._changed.look()

    def _enter(self, module: nn.Module, x: Tensor) -> Call:
        """The call that a convolution of inputs x (R, C, T) is part of; its first begins it."""
        if self._replaying and not self._capturing:
            self.abort()
        expected = self._modules[self._next] if self._next < len(self._modules) else None
        if module is not expected:
            raise self._wrong_order(module, expected)
        if self._next == 0 or self._call is None:
            self._call = begin_call(x, self._selection, self._seen, self._caches[0])
            if not self._capturing:
                self._before = self._here()
        return self._call

    def _wrong_order(self, module: nn.Module, expected: nn.Module | None) -> ValueError:
        name = self._names.get(module)
        if module in self._modules[: self._next]:
            return ValueError(
                f"{name!r} runs twice in one call of the model, which gives it two inputs for each "
                "position: register a second module that shares the weight (abort takes an "
                "unfinished call back)"
            )
        found = type(module).__name__ if name is None else repr(name)
        return ValueError(
            "convolutions are called in the order of model.modules(): expected "
            f"{'no more' if expected is None else repr(self._names[expected])}, got {found} "
            "(abort takes an unfinished call back)"
        )

    def _leave(self) -> None:
        self._next += 1
        if self._next == len(self._modules) and self._root is None:
            self._finish()

    def _finish(self) -> None:
        """The call is whole."""
        call, self._next = self._call, 0
        if self._ran_fused:
            if isinstance(self._fused, gpu.FusedToken) and not self._capturing:
                self._fused.finish()
        else:
            if call is not None and self._before is not None and self.rollback != 0:
                self._keep_left(call, self._before[1])
            commit(self._short.values())
        if self._capturing:
            return
        self._before = None
        if not self._all_seen and call is not None:
            self._seen[slice(None) if call.rows is None else call.rows] = True
            self._all_seen = bool(self._seen.all())
