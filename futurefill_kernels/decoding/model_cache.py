"""DecodingCache: the decoding state of a whole model, handed to its mixers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..cache.cache import FutureFillCache
from ..checks import Rows, refuse_grad, row_indices, valid_lengths
from ..nn.filters import LongFilter
from ..nn.language_model import LanguageModel
from ..nn.short_conv import ShortConv, ShortConvState
from ..nn.token.cpu import FusedToken, cannot_fuse
from ..plan import Plan
from ..planning.capabilities import Capabilities


class DecodingCache:
    """State of every `LongFilter` and `ShortConv` of a model, allocated once.

    The first call ``model(x, cache=cache)`` is the prompt; after it, a call with one position is a
    step and a longer one continues the prompt or, after the first step, the stream. All filters of
    equal shape are layers of one `FutureFillCache`, in the order of ``model.modules()``, which has
    to be the order of the calls.

    model: its weights are read here, once: make a new cache after changing them. batch_size: rows
    ``B``. max_new_tokens: positions ``N`` that follow the prompt. plan, impl, fill_stream,
    spectra_dtype: as in `FutureFillCache`. fused: take one call per run of layers for tokens of all
    rows (`FusedToken`) where ``not_fused`` has no reason against it.
    """

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
    ) -> None:
        self._modules = [m for m in model.modules() if isinstance(m, LongFilter | ShortConv)]
        groups: dict[tuple[int, int, bool], list[LongFilter]] = {}
        for module in self._modules:
            if isinstance(module, LongFilter):
                signature = (module.channels, module.groups, module.skip is None)
                groups.setdefault(signature, []).append(module)
        if not groups:
            raise ValueError(f"{type(model).__name__} has no ff.nn mixers, expected at least one")
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self._streams = [
            _stream(filters, batch_size, max_new_tokens, plan, impl, fill_stream, spectra_dtype)
            for filters in groups.values()
        ]
        self._place = {
            module: (stream, layer)
            for stream, filters in enumerate(groups.values())
            for layer, module in enumerate(filters)
        }
        self._short = {
            module: ShortConvState(module, batch_size)
            for module in self._modules
            if isinstance(module, ShortConv)
        }
        self._selected: list[int] | None = None
        self._lengths: Tensor | Sequence[int] | None = None
        self._next = 0
        self._stepping = self._replaying = False
        self._counted = False  # whether the device's token counts are those of `_seen`
        self._token_lengths: list[int] = []
        self._token_seen: list[int] = []
        self._seen = torch.zeros(batch_size, dtype=torch.int64)
        self._all_seen = False
        #: Why tokens take one call per layer; empty when they are fused.
        self.not_fused = ["fused=False"] if not fused else cannot_fuse(model, self._streams)
        self._fused: FusedToken | None = None
        if not self.not_fused and isinstance(model, LanguageModel):
            self._fused = FusedToken(model, batch_size, self._place, self._short)

    @property
    def positions(self) -> Tensor:
        """(B,) int64: positions taken since the prompt."""
        return self._streams[0].positions

    @property
    def plan(self) -> Plan:
        """The plan of the first group of filters."""
        return self._streams[0].plan

    @property
    def impl(self) -> str:
        """Name of the implementation that runs."""
        return self._streams[0].impl

    @property
    def capabilities(self) -> Capabilities:
        """What the implementation that runs can do."""
        return self._streams[0].capabilities

    @property
    def nbytes(self) -> int:
        """Bytes of all state and prepared filters; independent of the prompt's length."""
        short = sum(s.ring.nbytes + s.aligned.nbytes for s in self._short.values())
        if self._fused is not None:  # its scratch holds the rings
            short += self._fused.nbytes - sum(s.ring.nbytes for s in self._short.values())
        return sum(s.nbytes for s in self._streams) + short

    @contextmanager
    def select(
        self, rows: Rows | None = None, lengths: Tensor | Sequence[int] | None = None
    ) -> Iterator[None]:
        """Inside, calls of the model are about some rows or about right-padded prompts.

        rows: the R rows that the call's batch stands for. lengths: (R,) valid positions of each.
        """
        self._selected = None if rows is None else row_indices(rows, self.batch_size)
        self._lengths = lengths
        try:
            yield
        finally:
            self._selected = self._lengths = None

    def fused_token(self, model: nn.Module, ids: Tensor) -> Tensor | None:
        """Logits (B, 1, V) of a token ids (B, 1) of all rows, or None where layers go one by one.

        None too for calls that need checks or raise: the layers know what to say.
        """
        fused = self._fused
        if (
            fused is None
            or model is not fused.model
            or not self._all_seen
            or self._next
            or self._replaying
            or self._selected is not None
            or self._lengths is not None
            or ids.shape != (self.batch_size, 1)
            or ids.dtype is not torch.int64
            or torch.is_grad_enabled()
            or any(stream.full for stream in self._streams)
        ):
            return None
        return fused(ids.contiguous(), self._seen, self._streams)

    def long_conv(
        self, module: LongFilter, u: Tensor, pre: Tensor | None, post: Tensor | None
    ) -> Tensor:
        """What ``module(u, pre=pre, post=post)`` adds for these tokens. u: (R, D, T)."""
        self._enter(module, u)
        index, layer = self._place[module]
        stream, rows = self._streams[index], self._selected
        if self._stepping:
            pre = pre if pre is None else pre[..., 0]
            post = post if post is None else post[..., 0]
            y = stream.step(u[..., 0], layer, pre=pre, post=post, rows=rows)[..., None]
        else:
            lengths = None if self._lengths is None else self._token_lengths
            y = stream.prefill(u, layer, pre=pre, post=post, rows=rows, lengths=lengths)
        self._leave()
        return y

    def short_conv(self, module: ShortConv, x: Tensor) -> Tensor:
        """What ``module(x)`` gives for these tokens. x: (R, C, T)."""
        self._enter(module, x)
        state, rows, seen = self._short[module], self._selected, self._token_seen
        if self._stepping:
            y = state.step(x[..., 0], rows, seen)[..., None]
        else:
            y = state.prefill(x, rows, seen, self._token_lengths)
        self._leave()
        return y

    @property
    def stepped(self) -> bool:
        """Whether every row has made a step since its prompt."""
        return int(self.positions.min()) > 0

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Inside, a call of the model launches one step of all rows, and no book is kept of it.

        Token counts come from the device, so the launches serve every token; `finish_replay` keeps
        the books and launches the fills.
        """
        counters = list(self._short.values())
        for stream in self._streams:
            stream._join_fill()
            stream._capturing = True
        for state in counters:
            state.begin_capture(self._seen.tolist())
        self._replaying = True
        try:
            yield
        finally:
            self._replaying = False
            for stream in self._streams:
                stream._capturing = False
            for state in counters:
                state.end_capture()

    def check_step(self) -> None:
        """ValueError when a replay would be one position too many in some row."""
        self._between_calls("a replay")
        if any(stream.full for stream in self._streams):
            raise ValueError(
                f"no room for another step: all max_new_tokens = {self.max_new_tokens} are taken"
            )
        for stream in self._streams:
            stream._begin_step(None)
        if not self._counted:
            for state in self._short.values():
                state.set_count(self._seen.tolist())

    def finish_replay(self) -> None:
        """Keep the books of a replayed step, and launch what fills are due."""
        for stream in self._streams:
            stream._finish_step(None)
        self._seen += 1
        self._counted = True

    def reset(self, rows: Rows | None = None) -> None:
        """Forget everything the rows (default all) have seen."""
        if rows is None:
            self._next = 0
        self._between_calls("reset")
        chosen = (
            list(range(self.batch_size)) if rows is None else row_indices(rows, self.batch_size)
        )
        for stream in self._streams:
            stream.reset(rows)
        for state in self._short.values():
            state.ring[chosen] = 0
        self._counted = False
        self._seen[chosen] = 0
        self._all_seen = False

    def clone(self) -> DecodingCache:
        """An independent cache in the same state; prepared filters are shared."""
        self._between_calls("clone")
        other = copy.copy(self)
        other._streams = [stream.clone() for stream in self._streams]
        other._short = {module: state.clone() for module, state in self._short.items()}
        other._seen = self._seen.clone()
        if self._fused is not None:
            other._fused = self._fused.clone(other._short)
        return other

    def reorder(self, rows: Rows) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was (beam search). rows: (B,)."""
        self._between_calls("reorder")
        chosen = row_indices(rows, self.batch_size, unique=False)
        if len(chosen) != self.batch_size:
            raise ValueError(f"expected rows (B,) = ({self.batch_size},), got ({len(chosen)},)")
        for stream in self._streams:
            stream.reorder(chosen)
        for state in self._short.values():
            state.ring.copy_(state.ring[chosen])
        self._counted = False
        self._seen = self._seen[chosen]
        self._all_seen = bool((self._seen > 0).all())

    def _between_calls(self, method: str) -> None:
        if self._next:
            raise ValueError(
                f"{method} needs a finished call of the model; this one stopped inside"
            )

    def _enter(self, module: nn.Module, x: Tensor) -> None:
        expected = self._modules[self._next]
        if module is not expected:
            raise ValueError(
                f"convolutions are called in the order of model.modules(): expected number "
                f"{self._next}, a {type(expected).__name__}, got another {type(module).__name__}"
            )
        if self._next == 0:
            self._begin_call(x)

    def _leave(self) -> None:
        self._next += 1
        if self._next == len(self._modules):
            self._finish_call()

    def _begin_call(self, x: Tensor) -> None:
        """Check everything that could fail later, before any state changes, and choose the mode."""
        refuse_grad(x=x)
        rows = range(self.batch_size) if self._selected is None else self._selected
        count, width = x.shape[0], x.shape[2]
        if count != len(rows) or width < 1:
            raise ValueError(
                f"expected inputs of {len(rows)} rows and at least one position, "
                f"got {count} rows and {width} positions"
            )
        self._token_seen = self._seen[list(rows)].tolist()
        self._stepping = width == 1 and self._lengths is None and min(self._token_seen) > 0
        self._token_lengths = valid_lengths(self._lengths, count, width)
        for row, length in zip(rows, self._token_lengths, strict=True):
            room = self._streams[0].room(row)
            if (self._stepping or not self._streams[0].in_prompt(row)) and length > room:
                raise ValueError(
                    f"expected at most {room} more positions in row {row} "
                    f"(max_new_tokens = {self.max_new_tokens}), got {length}"
                )

    def _finish_call(self) -> None:
        self._next = 0
        if self._replaying:
            return
        self._counted = False
        rows = range(self.batch_size) if self._selected is None else self._selected
        self._seen[list(rows)] += torch.tensor(self._token_lengths)
        if not self._all_seen:
            self._all_seen = bool((self._seen > 0).all())


def _stream(
    filters: list[LongFilter],
    batch_size: int,
    max_new_tokens: int,
    plan: Plan | None,
    impl: str,
    fill_stream: torch.cuda.Stream | None,
    spectra_dtype: torch.dtype | None,
) -> FutureFillCache:
    """One stream whose layers are filters of equal shape."""
    with torch.no_grad():
        taps = [module.taps(module.context_length) for module in filters]
        skips: list[Tensor] = [module.skip for module in filters if module.skip is not None]
        return FutureFillCache(
            taps,
            batch_size,
            max_new_tokens,
            channels=filters[0].channels,
            skip=torch.stack(skips) if skips else None,
            plan=plan,
            impl=impl,
            fill_stream=fill_stream,
            spectra_dtype=spectra_dtype,
        )
