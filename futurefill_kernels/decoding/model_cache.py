"""DecodingCache: the decoding state of a whole model, handed to its mixers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ..checks import Rows, row_indices, valid_lengths
from ..nn.brackets import Bracketed
from ..nn.filters import LongFilter
from ..nn.short_conv import ShortConv, commit
from ..nn.token import cpu, gpu
from ..plan import Plan
from ..state.lasting import lasting
from .calls import Call, Selection, begin_call
from .long_convs import ModelOptions, common_dtype
from .over_ranks import describe_call, make_caches
from .savable_state import SavableState


class DecodingCache(SavableState, Bracketed):
    """State of every `LongFilter` and `ShortConv` of a model, allocated once.

    The first call ``model(x, cache=cache)`` is the prompt; after it, a call with one position is a
    step and a longer one continues the prompt or, after the first step, the stream. All filters of
    equal shape are layers of one `FutureFillCache`, in the order of ``model.modules()``, which has
    to be the order of the calls. Each runs once in a call of the model: one that runs twice or not
    at all is a ValueError, and a call that fails leaves every row as it was.

    model: its weights are read here, once: a call after filters have changed is a ValueError (what
    is written through ``.data`` is not noticed). Over ranks (`ff.nn.parallel_plan`) each has a
    cache, all made alike, and every call is made on all of them.
    batch_size: rows ``B``. max_new_tokens: positions ``N`` that follow the prompt. plan, impl,
    fill_stream, spectra_dtype, state_dtype, filters_dtype, memory, keep_prompt_spectra: as in
    `FutureFillCache`. fused: take few calls for tokens (`FusedToken`) where ``not_fused`` has no
    reason against it; on a GPU those of all rows.
    rollback: positions that ``crop`` can take back, at most ``N``; None for any number.
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
        state_dtype: torch.dtype | None = None,
        filters_dtype: torch.dtype | None = None,
        memory: str = "speed",
        keep_prompt_spectra: bool = False,
    ) -> None:
        options: ModelOptions = {
            "plan": plan, "impl": impl, "fill_stream": fill_stream, "spectra_dtype": spectra_dtype,
            "rollback": rollback, "state_dtype": state_dtype, "filters_dtype": filters_dtype,
            "memory": memory, "keep_prompt_spectra": keep_prompt_spectra,
        }  # fmt: skip
        caches = make_caches(model, batch_size, max_new_tokens, options)
        super().__init__(model, caches, fused)

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
        fused = self._fused
        if fused is None or model is not fused.model:
            return None
        if self._root is None:
            self._begin()
        selection = self._selection
        rows, on_cpu = selection.rows, isinstance(fused, cpu.FusedToken)
        if (
            self._reasons
            or not (self._all_seen or self._have_seen(rows))
            or (self._capturing if on_cpu else rows is not None)
            or selection.lengths is not None
            or ids.shape != (self._token_shape if rows is None else (len(rows), 1))
            or ids.dtype is not torch.int64
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled(self._device_type)
            or not fused.takes(self._caches)
            or not self._have_room(rows)
        ):
            return None
        self._ran_fused = True
        if self._capturing:
            self._captured_fused = True
            return fused(ids.contiguous(), self._caches)
        if self.rollback != 0:
            self._keep_oldest(rows)
        fused.begin(rows)
        self._call = None
        self._before = self._counts_now(), None if rows is None else list(self._caches[0].taken)
        try:
            for cache in self._caches:
                cache.begin_token(rows)
            logits = fused(ids.contiguous(), self._caches)
            for cache in self._caches:
                cache.finish_token(rows)
        except Exception:
            if self._root is None:  # else the end of the call does it
                self.abort()
            raise
        if self._root is None:
            self._finish()
        return logits if on_cpu else logits.clone()

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
        if self._staged:
            self._settle()
        self._counts = self._counts_now()
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

    def _have_seen(self, rows: list[int] | None) -> bool:
        """Whether all the rows have seen something."""
        return rows is not None and bool(self._seen[rows].all())

    def _have_room(self, rows: list[int] | None) -> bool:
        """Whether no row would take one position too many."""
        first = self._caches[0]  # all have the same positions
        return not first.full if rows is None else all(first.room(row) > 0 for row in rows)

    def _counts_now(self) -> list[int]:
        """What every cache has finished."""
        return [cache.calls for cache in self._caches]

    def begin_call(self, module: nn.Module, inputs: Sequence[Tensor]) -> None:
        """`Bracketed`: take back what an earlier call has left, and look at the model. Over ranks
        what the call is about is the same on all, or a ValueError on all.
        """
        if self._root is not None and self._root is not module:
            return  # a part of a call
        self._root = None
        self._begin()
        if self._ranks is not None and not self._capturing:
            self._alike("a call of the model", lambda: describe_call(inputs, self._selection), dict)
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
        if self._staged:
            self._settle()
        self._reasons = self._changed.look()

    def _enter(self, module: nn.Module, x: Tensor) -> Call:
        """The call that a convolution of inputs x (R, C, T) is part of; its first begins it."""
        if self._replaying and not self._capturing:
            self.abort()
        if self._before is None and not self._capturing:  # the first of a call
            self._next = 0
            if self._staged:
                self._settle()
        expected = self._modules[self._next] if self._next < len(self._modules) else None
        if module is not expected:
            raise self._wrong_order(module, expected)
        if self._next == 0 or self._call is None:
            self._call = begin_call(x, self._selection, self._seen, self._caches[0])
            if not self._capturing:
                self._before = self._counts_now(), list(self._caches[0].taken)
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
        """The call is whole: from one assignment on, wherever an interrupt comes."""
        if self._ran_fused:
            if isinstance(self._fused, gpu.FusedToken) and not self._capturing:
                self._fused.finish()
        elif self._capturing:  # launched, and replayed with the rest
            commit(self._short.values())
        elif self._call is not None and self._before is not None and self._before[1] is not None:
            self._ended = self._call, self._before[1]
            self._staged = True
        self._before = None
        self._next = 0
