"""FutureFillCache: the streaming state of every layer's long convolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ..checks import (
    Rows,
    check_dtype,
    check_filters_dtype,
    check_spectra_dtype,
    filter_list,
    integer,
    ring_dtype,
    row_indices,
)
from ..checks import state_dtype as check_state_dtype
from ..implementations.base import Implementation
from ..plan import Plan
from ..planning.capabilities import Capabilities
from ..state.lasting import lasting
from ..state.tensors import StreamState
from .call import Token
from .checks import (
    check_apart,
    check_fill_stream,
    check_input,
    check_sizes,
    checked_input,
)
from .construct import Kept, choose, make_state, significant
from .many_tokens import ManyTokens
from .memory import Memory


class FutureFillCache(ManyTokens):
    """Streaming state of causal convolutions whose inputs arrive one at a time.

    After any mix of ``prefill`` and ``step`` calls the outputs are those of one parallel
    convolution ``y_t = sum_s h_s u_{t-s} + skip u_t`` over everything the row has seen, up to
    rounding.

    filters: (G, L) or one per layer; tap 0 multiplies the newest input; channel ``d`` uses row
        ``d // (D/G)``. All layers have the same ``G``; lengths may differ.
    batch_size: rows ``B``. max_new_tokens: positions ``N`` that follow the prompt;
        None: any number, in memory that the filters' length determines (`Plan`).
    channels: ``D``, default ``G``. skip: (D,), or (layers, D).
    plan: block sizes, default ``make_plan``; its length must be ``max_new_tokens``.
    impl: "auto", "cpu", "reference", ...; a named one never falls back.
    device, dtype: of the inputs; default those of the filters. State and arithmetic are float32, or
        float64 for float64 inputs.
    fill_stream: future fills run on this CUDA stream, beside what follows a token's last layer; the
        next step waits for them. None: on the current stream.
    spectra_dtype: of the filter spectra, default the state's. torch.bfloat16, where the
        implementation has it ("triton"), halves their memory and rounds filters to 8 bits of
        mantissa; arithmetic and input spectra stay in float32.
    rollback: positions that ``crop`` can take back, at most ``N``; None: any number, for which the
        prompt's fill is kept, ``N`` values more of every row and channel. A plan with slack takes 0
        or None, an endless stream a number.
    state_dtype: ("cpu" and "reference") torch.float64 for a state and arithmetic in float64
        whatever the inputs are; (everywhere) torch.bfloat16 or torch.float16, not for float64
        inputs, for inputs and pending outputs in 2 bytes, rounded once when they are stored and
        once for each level that adds to them; arithmetic, and the slots of the newest ``T_0``
        positions, stay float32. Not with slack. Default as said at ``dtype``. docs/accuracy.md says
        what they are for.
    filters_dtype: of the taps, default the state's. torch.bfloat16 halves their memory: they are
        rounded to 8 bits of mantissa at the start, and prompts, steps and fills all see the same
        rounded filters; arithmetic stays in the state's dtype.
    memory: as in ``make_plan``; with a plan of one's own "small" makes the spectra of its largest
        levels when they fire, and "speed" leaves it as it is.
    keep_prompt_spectra: the filters' transforms of the newest prompts, of at most two lengths, are
        kept for prompts that take the same, and shared as taps are. Each has, of every layer in
        float32, about ``8 (P + N)`` bytes a channel on the CPU, elsewhere ``4 n`` a filter row for
        ``n`` points; MemoryError where there is no room. They serve the first call of a prompt.

    Taps are kept once, and caches of the same filters share them with what the plan prepares of
    them. The end of a filter that adds less than rounding is left out. The state takes O(N) memory
    whatever the prompt's length. Inputs of a prompt that comes in several ``prefill`` calls are
    held until the first ``step``. Raises ValueError or TypeError that names the argument, what was
    expected and what came; a rejected call leaves the cache as it was.
    """

    @lasting
    def __init__(
        self,
        filters: Tensor | Sequence[Tensor],
        batch_size: int,
        max_new_tokens: int | None,
        *,
        channels: int | None = None,
        skip: Tensor | None = None,
        plan: Plan | None = None,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        fill_stream: torch.cuda.Stream | None = None,
        spectra_dtype: torch.dtype | None = None,
        rollback: int | None = 0,
        state_dtype: torch.dtype | None = None,
        filters_dtype: torch.dtype | None = None,
        memory: str = "speed",
        keep_prompt_spectra: bool = False,
    ) -> None:
        layers = filter_list(filters)
        sizes = check_sizes(layers, batch_size, max_new_tokens, channels, skip)
        self.dtype = check_dtype(layers[0].dtype if dtype is None else dtype)
        self.device = layers[0].device if device is None else torch.empty(0, device=device).device
        of_state = check_state_dtype(self.dtype, state_dtype)
        of_ring = ring_dtype(self.dtype, state_dtype)
        self._spectra_dtype = check_spectra_dtype(spectra_dtype, of_state)
        kept = Kept(self._spectra_dtype, check_filters_dtype(filters_dtype, of_state), of_ring)
        rollback = None if rollback is None else integer("rollback", rollback)
        taps = [significant(h.detach().to(self.device, of_state)) for h in layers]
        sizes = dataclasses.replace(sizes, taps=max(h.shape[1] for h in taps))
        implementation, self.plan = choose(
            sizes, plan, impl, self.device, of_state, kept, rollback, memory
        )
        check_fill_stream(fill_stream, self.device)
        state = make_state(sizes, self.plan, implementation, taps, skip, kept, rollback)
        super().__init__(
            implementation, state, self.dtype, fill_stream, rollback, keep_prompt_spectra
        )
        self._capturing = False
        self._last_rows: tuple[list[int], Tensor] | None = None

    @property
    def impl(self) -> str:
        """Name of the implementation that runs."""
        return self._implementation.capabilities.name

    @property
    def capabilities(self) -> Capabilities:
        """What the implementation that runs can do."""
        return self._implementation.capabilities

    @property
    def implementation(self) -> Implementation:
        """The implementation that runs, for those who measure its parts."""
        return self._implementation

    @property
    def state(self) -> StreamState:
        """Every tensor of the cache, for those who prove and measure: the cache keeps its books."""
        return self._state

    @property
    def taken(self) -> list[int]:
        """``positions`` as a list, not to be changed."""
        return self._positions.taken

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that are held: `memory` has the parts."""
        return self.memory().nbytes

    def memory(self) -> Memory:
        """Bytes of all tensors that are held, part by part; ``print(cache.memory())`` is a table.

        What there is of prompts is held until the first step is over and cannot be taken back; all
        else is independent of their lengths. ``before``: what the newest chunk inside the stream,
        or fills on a stream of their own, may be taken back by. ``scratch``: of the CPU's threads,
        which all streams of the process share.
        """
        state, (layers, groups, _) = self._state, self._state.filters.shape
        spectra = self._prefill.spectra
        blocks = 0 if self._plain is None else self._plain.kept_bytes()
        parts = state.parts | {
            "prompts": self._prefill.nbytes(self._held_before),
            "prompt_spectra": 0 if spectra is None else spectra.nbytes,
            "before": self._prefill.chunks_nbytes + self._fills.nbytes + blocks,
            "last rows": 0 if self._last_rows is None else self._last_rows[1].nbytes,
            "scratch": self._scratch_nbytes,
        }
        rows = layers * self.batch_size * self.channels
        return Memory.of(parts, rows * state.length, layers * groups * state.length)

    @property
    def full(self) -> bool:
        """Whether some row has taken all of its positions."""
        return self._positions.full

    def step(
        self,
        u_t: Tensor,
        layer: int = 0,
        *,
        pre: Tensor | None = None,
        post: Tensor | None = None,
        rows: Rows | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """One token of one layer: ``post * (conv(pre * u) + skip * pre * u)`` at the next position.

        u_t, pre, post: (B, D), or (R, D) with rows. rows: R rows of the batch, each at its own
        position; -1 is padding, whose output is zero. out: written and returned when given, one of
        the inputs or apart from them; without it the result is the only allocation. The layers of a
        token come in order; the last one advances the position. Layer 0 again before it takes the
        unfinished token back (``abort``).
        Source: docs/algorithm.md, equations 2 and 3.
        """
        plain_step = self._plain_step
        if plain_step is not None and not is_dynamo_compiling():
            done = plain_step(u_t, layer, pre, post, rows, out)
            if done is not None:
                return done
        if type(layer) is not int:
            layer = integer("layer", layer)
        if layer != self._positions.layer and layer:
            raise self._wrong_layer(layer)
        row_list, shape, index = None, self._step_shape, None
        if rows is not None:
            row_list, index = self._rows_of_step(rows)
            shape = torch.Size((len(row_list), self.channels))
        # checked_input written out for u_t and out: the calls would be a fifth of a step
        dtype, device = self.dtype, self.device
        if (
            not isinstance(u_t, Tensor)
            or u_t.shape != shape
            or u_t.dtype is not dtype
            or u_t.device != device
            or u_t.requires_grad
        ):
            check_input("u_t", u_t, shape, self.dtype, self.device)
        if not u_t.is_contiguous():
            u_t = u_t.contiguous()
        if pre is not None:
            pre = checked_input("pre", pre, shape, dtype, device)
        if post is not None:
            post = checked_input("post", post, shape, dtype, device)
        if out is None:
            out = torch.empty_like(u_t)
        else:
            if (
                not isinstance(out, Tensor)
                or out.shape != shape
                or out.dtype is not dtype
                or out.device != device
                or out.requires_grad
            ):
                check_input("out", out, shape, self.dtype, self.device)
            if not out.is_contiguous():
                raise ValueError(f"expected out to be contiguous, got strides {out.stride()}")
            check_apart(out, u_t=u_t, pre=pre, post=post)
        if layer == 0:
            if (self._positions.layer or self._replaying) and not self._capturing:
                self.abort()
            if self._launches_fills:
                self._fills.join()
            if self._held_before and not self._capturing:
                self._held_before = {}
        # else one more of all rows, or a graph that takes steps down
        if (row_list is not None or self._positions.plain <= 0) and not self._capturing:
            if layer == 0:
                self.begin_token(row_list)
            elif self._token != Token(row_list):
                raise ValueError(
                    f"expected the rows of layer 0 for layer {layer}, got rows={row_list}"
                )
        if layer == 0 and self._history.needed:
            self._history.join(index)
        advance = layer == self._last_layer
        # before it: an interrupt must not hide that the layer has begun
        self._positions.layer = layer + 1
        try:
            self._step(u_t, pre, post, out, index, layer, advance)
        except Exception:
            if layer or self._capturing:
                self._positions.layer = layer
            else:  # some rows may have run
                self.abort()
            raise
        if advance:
            if not self._capturing:  # nothing has run yet; who replays keeps the books
                self.finish_token(row_list)
                self._positions.open = not self._held_before
            self._positions.layer = 0
        return out

    def _rows_of_step(self, rows: Rows) -> tuple[list[int], Tensor]:
        """Rows as a list and as a tensor; those of the last step are there already."""
        last = self._last_rows
        if last is None or not isinstance(rows, list) or rows != last[0]:
            found = row_indices(rows, self.batch_size, padding=True)
            self._last_rows = last = found, torch.tensor(found, device=self.device)
        return last

    def widen(self, dtype: torch.dtype) -> None:
        """Take inputs of another dtype from now on. TypeError where the state is narrower."""
        widest = self._state.dtype
        if torch.promote_types(check_dtype(dtype), widest) is not widest:
            raise TypeError(f"expected a dtype no wider than the state's {widest}, got {dtype}")
        make, state = self._implementation, self._state
        steps = make.make_step(state), make.make_plain_steps(state, dtype, self._positions)
        self.dtype = dtype
        self._step_by(*steps)

    def __reduce__(self) -> tuple[Callable[..., FutureFillCache], tuple[Any, ...]]:
        """What pickle writes: filters, options, and the state as ``state_dict`` saves it."""
        if self._fills.stream is not None:
            raise TypeError("a cache with a fill_stream cannot be pickled: streams are a process's")
        skip = self._state.skip
        options = {
            "channels": self.channels,
            "skip": None if skip is None else skip[:, : self.channels].clone(),
            "plan": self.plan,
            "impl": self.impl,
            "device": self.device,
            "dtype": self.dtype,
            "spectra_dtype": self._spectra_dtype,
            "rollback": self.rollback,
            "state_dtype": self._state.ring.dtype,
            "filters_dtype": self._state.filters.dtype,
            "keep_prompt_spectra": self._prefill.spectra is not None,
        }
        sizes, bank = (self.batch_size, self.max_new_tokens), self._state.prepared.bank
        filters = [bank.stored(layer).clone() for layer in range(self.layers)]
        return _unpickled, (filters, *sizes, options, self.state_dict())

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Inside, steps are launched without books: a CUDA graph takes them down.

        ``begin_token`` comes before it and before every replay, ``finish_token`` after a replay.
        Until then ``abort`` takes the token back.
        """
        if not self._replaying:
            raise ValueError("expected begin_token before capture")
        self._fills.join()
        self._capturing = True
        try:
            yield
        finally:
            self._capturing = False

    def begin_token(self, rows: list[int] | None = None) -> None:
        """Before a token of the rows (default all; -1 is padding): their prompts are over, and what
        follows on the current stream waits for fills. ValueError where a row has no room.
        """
        if self._positions.layer or self._replaying:
            self.abort()
        if self._launches_fills:
            self._fills.join()
        self._positions.open = False
        if rows is None and self._positions.plain > 0:
            self._replaying, self._held_before = True, {}
            return
        self._prefill.begin()
        everyone = range(self.batch_size) if rows is None else rows
        for row in everyone:
            if row >= 0 and self.room(row) < 1:
                raise ValueError(
                    f"no room for another step: all max_new_tokens = {self.max_new_tokens} are "
                    f"taken"
                )
        self._leaps.make_room(everyone)
        self._token, self._held_before = Token(rows), self._prefill.held(everyone)
        self._replaying = True  # before: an interrupt in what follows leaves something to abort
        self._prefill.close(everyone)
        if rows is None:
            self._positions.grant()
        else:
            self._positions.settle()

    def finish_token(self, rows: list[int] | None = None) -> None:
        """After the last layer: the rows' positions advance. The fills that are due run on the
        side stream if there is one, else before the next token.
        """
        if self._launches_fills:
            position = self._positions.common
            if rows is None and position is not None:
                self._fills.owe_all(position)
            else:
                everyone = range(self.batch_size) if rows is None else rows
                self._fills.owe(everyone, self._positions.rows)
            if self._fills.stream is not None:
                self._fills.launch()
        if rows is None and self._positions.plain > 0:
            self._positions.plain -= 1
        else:
            self._positions.advance(range(self.batch_size) if rows is None else rows)
            self._other_calls += 1
        self._replaying = False

    def sum_history(self, stream: torch.cuda.Stream | None = None) -> None:
        """Launch now what layer 0 of the next token of all rows would launch first: the sums over
        older inputs that all its layers need, where the implementation makes them.

        stream: launch it there, beside what follows on the current stream until layer 0.
        ValueError inside a token.
        """
        if not self._capturing:
            self._check_between("sum_history")
            self._fills.join()
            self._leaps.make_room(range(self.batch_size))
            self._prefill.clean(range(self.batch_size))
        self._history.sum(None, stream)

    def join_history(self) -> None:
        """The sums of this token are there for what follows on the current stream."""
        self._history.join(None)


def _unpickled(
    filters: Sequence[Tensor],
    batch_size: int,
    max_new_tokens: int | None,
    options: dict[str, Any],
    state: dict[str, Tensor],
) -> FutureFillCache:
    planned = options["plan"].filter_length
    wide = [h.to(torch.promote_types(h.dtype, torch.float32)) for h in filters]
    # it was made with longer ones, or more of the end of these can be left out now
    if max(significant(h).shape[1] for h in wide) < planned:
        longest = filters[0].new_ones(len(filters[0]), planned)
        cache = FutureFillCache([longest] * len(filters), batch_size, max_new_tokens, **options)
        cache.set_filters(filters)
    else:
        cache = FutureFillCache(filters, batch_size, max_new_tokens, **options)
    cache.load_state_dict(state)
    return cache
