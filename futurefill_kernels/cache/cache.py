"""FutureFillCache: the streaming state of every layer's long convolution."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import (
    Rows,
    check_dtype,
    check_filters,
    check_spectra_dtype,
    refuse_grad,
    row_indices,
    valid_lengths,
)
from ..implementations.select import check_plan, resolve
from ..plan import Level, Plan
from ..planning.capabilities import Capabilities
from ..planning.make_plan import make_plan
from ..planning.memory import check_memory
from ..state.layout import from_tiles, to_tiles
from ..state.tensors import allocate, copy_rows, state_nbytes
from . import prompt as _prefill
from .checks import check_input, check_state_dict


class FutureFillCache:
    """Streaming state of causal convolutions whose inputs arrive one at a time.

    After any mix of ``prefill`` and ``step`` calls the outputs are those of one parallel
    convolution ``y_t = sum_s h_s u_{t-s} + skip u_t`` over everything the row has seen, up to
    rounding.

    filters: (G, L) or one per layer; tap 0 multiplies the newest input; channel ``d`` uses row
        ``d // (D/G)``. All layers have the same ``G``; lengths may differ.
    batch_size: rows ``B``. max_new_tokens: positions ``N`` that follow the prompt.
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

    The state takes O(N) memory whatever the prompt's length. Inputs of a prompt that comes in
    several ``prefill`` calls are held until the first ``step``. Raises ValueError or TypeError that
    names the argument, what was expected and what came; a rejected call leaves the cache as it was.
    """

    def __init__(
        self,
        filters: Tensor | Sequence[Tensor],
        batch_size: int,
        max_new_tokens: int,
        *,
        channels: int | None = None,
        skip: Tensor | None = None,
        plan: Plan | None = None,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        fill_stream: torch.cuda.Stream | None = None,
        spectra_dtype: torch.dtype | None = None,
    ) -> None:
        layers = [filters] if isinstance(filters, Tensor) else list(filters)
        check_filters(layers)
        groups = layers[0].shape[0]
        channels = groups if channels is None else channels
        if channels < 1 or channels % groups:
            raise ValueError(f"expected channels to be a multiple of G = {groups}, got {channels}")
        for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise ValueError(f"expected {name} >= 1, got {value}")
        if skip is not None and skip.shape not in ((channels,), (len(layers), channels)):
            raise ValueError(
                f"expected skip (D,) = ({channels},) or (layers, D) = ({len(layers)}, {channels}), "
                f"got {tuple(skip.shape)}"
            )
        refuse_grad(skip=skip)
        self.dtype = check_dtype(layers[0].dtype if dtype is None else dtype)
        self.device = layers[0].device if device is None else torch.empty(0, device=device).device
        spectra = check_spectra_dtype(spectra_dtype, self.dtype)
        longest = max(h.shape[1] for h in layers)
        # a plan is made for what will run it: implementations fuse fills up to different blocks
        implementation = resolve(impl, self.device, self.dtype, plan, spectra_dtype)
        if plan is None:
            plan = make_plan(
                max_new_tokens,
                channels,
                batch_size=batch_size,
                layers=len(layers),
                groups=groups,
                dtype=self.dtype,
                device=self.device,
                filter_length=longest,
                impl=implementation.capabilities.name,
                spectra_dtype=spectra_dtype,
            )
        elif plan.length != max_new_tokens:
            raise ValueError(
                f"expected a plan of length max_new_tokens = {max_new_tokens}, got {plan.length}"
            )
        self.plan = dataclasses.replace(plan, filter_length=longest)
        check_plan(implementation, self.device, self.dtype, self.plan)
        self._implementation = implementation
        if fill_stream is not None and self.device.type != "cuda":
            raise ValueError(f"fill_stream needs a CUDA device, the stream's is {self.device}")
        self._fill_stream, self._fill_running, self._capturing = fill_stream, False, False
        self._accumulate = torch.float64 if self.dtype == torch.float64 else torch.float32
        self._filters = [h.detach().to(self.device, self._accumulate) for h in layers]
        self.batch_size, self.max_new_tokens, self.channels = batch_size, max_new_tokens, channels
        self.layers = len(layers)
        layout = self._implementation.make_layout(channels, groups, self._accumulate, self.plan)
        check_memory(
            state_nbytes(
                self.plan, layout, layers=len(layers), batch_size=batch_size,
                itemsize=self._accumulate.itemsize, spectra_itemsize=spectra.itemsize,
            ),
            self.device,
        )  # fmt: skip
        self._state = allocate(
            self.plan,
            layout,
            self._implementation.make_spectra,
            self._filters,
            batch_size,
            skip,
            spectra,
        )
        self._keep_for_fills()
        self._step_shape = torch.Size((batch_size, channels))
        self._step = self._implementation.make_step(self._state)
        self._known_positions = [0] * batch_size  # as of `_steps_since` steps of all rows ago
        self._steps_since = 0
        # steps of all rows that need no look at the books: none since something else touched them
        self._plain_steps = 0
        self._open_prompts: _prefill.OpenPrompts = {}
        self._next_layer, self._last_layer = 0, self.layers - 1
        self._token: tuple[Any, ...] = ()
        self.reset()

    @property
    def impl(self) -> str:
        """Name of the implementation that runs."""
        return self._implementation.capabilities.name

    @property
    def capabilities(self) -> Capabilities:
        """What the implementation that runs can do."""
        return self._implementation.capabilities

    @property
    def positions(self) -> Tensor:
        """(B,) int64: positions taken since the prompt."""
        return torch.tensor(self._positions, dtype=torch.int64)

    @property
    def _positions(self) -> list[int]:
        self._plain_steps = 0
        if self._steps_since:
            self._known_positions = [p + self._steps_since for p in self._known_positions]
            self._steps_since = 0
        return self._known_positions

    @property
    def nbytes(self) -> int:
        """Bytes of the state and the prepared filters; independent of the prompt's length."""
        return self._state.nbytes

    def room(self, row: int) -> int:
        """Positions the row can still take."""
        return self.max_new_tokens - self._positions[row]

    def in_prompt(self, row: int) -> bool:
        """Whether the row still waits for its first step."""
        return row in self._open_prompts

    @property
    def full(self) -> bool:
        """Whether some row has taken all of its positions."""
        return max(self._known_positions) + self._steps_since >= self.max_new_tokens

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
        position; -1 is padding, whose output is zero. out: written and returned when given; without
        it the result is the only allocation. The layers of a token come in order; the last one
        advances the position. Source: docs/algorithm.md, equations 2 and 3.
        """
        if layer != self._next_layer:
            raise self._wrong_layer(layer)
        row_list, shape, index = None, self._step_shape, None
        if rows is not None:
            row_list = row_indices(rows, self.batch_size, padding=True)
            shape = torch.Size((len(row_list), self.channels))
            index = torch.tensor(row_list, device=self.device)
        # _step_input written out for u_t and out: the calls would be a fifth of a step
        dtype, device = self.dtype, self.device
        if (
            u_t.shape != shape
            or u_t.dtype is not dtype
            or u_t.device != device
            or u_t.requires_grad
        ):
            check_input("u_t", u_t, shape, self.dtype, self.device)
        if not u_t.is_contiguous():
            u_t = u_t.contiguous()
        if pre is not None:
            pre = self._step_input("pre", pre, shape)
        if post is not None:
            post = self._step_input("post", post, shape)
        if out is None:
            out = torch.empty_like(u_t)
        else:
            if (
                out.shape != shape
                or out.dtype is not dtype
                or out.device != device
                or out.requires_grad
            ):
                check_input("out", out, shape, self.dtype, self.device)
            if not out.is_contiguous():
                raise ValueError(f"expected out to be contiguous, got strides {out.stride()}")
        if layer == 0:
            if row_list is None and self._plain_steps:
                self._plain_steps -= 1
            else:
                self._begin_step(row_list)
        elif self._token != ("step", row_list):
            raise ValueError(f"expected the rows of layer 0 for layer {layer}, got rows={row_list}")
        advance = layer == self._last_layer
        self._step(u_t, pre, post, out, index, layer, advance)
        if advance:
            self._finish_step(row_list)
        else:
            self._next_layer = layer + 1
        return out

    def _step_input(self, name: str, x: Tensor, shape: torch.Size) -> Tensor:
        """A token's tensor, checked and contiguous; the whole check only where a part fails."""
        if (
            x.shape != shape
            or x.dtype is not self.dtype
            or x.device != self.device
            or x.requires_grad
        ):
            check_input(name, x, shape, self.dtype, self.device)
        return x if x.is_contiguous() else x.contiguous()

    def prefill(
        self,
        u: Tensor,
        layer: int = 0,
        *,
        pre: Tensor | None = None,
        post: Tensor | None = None,
        rows: Rows | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Many tokens of one layer at once, in O(P log P) time.

        u, pre, post: (B, D, P), or (R, D, P) with rows. lengths: (R,) valid positions of each
        right-padded row, at least 1; outputs after them mean nothing. Before a row's first step the
        tokens are its prompt, which takes none of its ``max_new_tokens``; calls may follow each
        other. After it they are positions of the stream like steps. Returns y like u.
        """
        if layer != self._next_layer:
            raise self._wrong_layer(layer)
        row_list = (
            list(range(self.batch_size)) if rows is None else row_indices(rows, self.batch_size)
        )
        if u.ndim != 3:
            raise ValueError(f"expected u (B, D, P), got {tuple(u.shape)}")
        expected = (len(row_list), self.channels, u.shape[2])
        if u.shape[2] < 1:
            raise ValueError(f"expected u (B, D, P) with P >= 1, got {tuple(u.shape)}")
        check_input("u", u, expected, self.dtype, self.device)
        for name, gate in (("pre", pre), ("post", post)):
            if gate is not None:
                check_input(name, gate, expected, self.dtype, self.device)
        valid = valid_lengths(lengths, len(row_list), u.shape[2])
        token = ("prefill", row_list, valid)
        self._join_fill()
        if layer == 0:
            self._check_room(row_list, valid)
        elif self._token != token:
            raise ValueError(f"expected the rows and lengths of layer 0 for layer {layer}")
        y = _prefill.tokens(
            self._state, self._implementation, self._open_prompts, self._positions,
            self._filters[layer], u, pre, post, layer, row_list, valid,
        )  # fmt: skip
        self._token = token
        self._next_layer = layer + 1
        if self._next_layer == self.layers:
            self._finish_prefill(row_list, valid)
        return y

    def reset(self, rows: Rows | None = None) -> None:
        """Forget everything the rows (default all) have seen; what filters prepared stays."""
        if rows is None:
            self._next_layer = 0
        self._between_tokens("reset")
        row_list = (
            list(range(self.batch_size)) if rows is None else row_indices(rows, self.batch_size)
        )
        for row in row_list:
            self._state.ring[:, row] = 0
            self._state.prompt_fill[:, row] = 0
            self._state.positions[row] = 0
            self._positions[row] = 0
            self._open_prompts[row] = [None] * self.layers

    def clone(self) -> FutureFillCache:
        """An independent cache in the same state; prepared filters are shared."""
        self._join_fill()
        other = copy.copy(self)
        other._state = self._state.clone()
        other._keep_for_fills()
        other._step = self._implementation.make_step(other._state)
        other._known_positions, other._steps_since = list(self._positions), 0
        other._open_prompts = {row: list(x) for row, x in self._open_prompts.items()}
        return other

    def reorder(self, rows: Rows) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was (beam search). rows: (B,)."""
        self._between_tokens("reorder")
        row_list = row_indices(rows, self.batch_size, unique=False)
        if len(row_list) != self.batch_size:
            raise ValueError(f"expected rows (B,) = ({self.batch_size},), got ({len(row_list)},)")
        for tensor in (self._state.ring, self._state.kept, self._state.prompt_fill):
            copy_rows(tensor, row_list)
        self._state.work.copy_(self._state.work[row_list])
        self._known_positions = [self._positions[b] for b in row_list]
        self._state.positions.copy_(torch.tensor(self._known_positions))
        self._open_prompts = {
            b: list(self._open_prompts[old])
            for b, old in enumerate(row_list)
            if old in self._open_prompts
        }

    def crop(self, length: int) -> None:
        """Take back all positions from ``length`` on (counted since the prompt), in every row."""
        self._between_tokens("crop")
        if length < 0:
            raise ValueError(f"expected length >= 0, got {length}")
        self._set_positions({row: length for row, p in enumerate(self._positions) if p > length})

    def state_dict(self) -> dict[str, Tensor]:
        """What determines the state, independent of plan, implementation and device.

        inputs: (layers, B, D, n), gated inputs since the prompt, n the largest position.
        prompt_fill: (layers, B, D, N), what the prompt adds to each position. positions: (B,)
        int64.
        """
        self._between_tokens("state_dict")
        inputs = from_tiles(self._state.ring[..., : max(self._positions), :], self._state.layout)
        taken = torch.arange(inputs.shape[-1]) < self.positions[:, None, None]
        return {
            "inputs": inputs * taken.to(self.device),
            "prompt_fill": from_tiles(self._state.prompt_fill, self._state.layout).clone(),
            "positions": self.positions,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state_dict`` of a cache with equal filters and sizes returned."""
        inputs, filled, positions = check_state_dict(
            state,
            (self.layers, self.batch_size, self.channels, self.max_new_tokens),
            self._accumulate,
        )
        self._next_layer = 0
        self._open_prompts = {}
        layout, ring = self._state.layout, self._state.ring
        ring[..., : inputs.shape[-1], :] = to_tiles(inputs.to(self.device), layout)
        self._state.prompt_fill.copy_(to_tiles(filled.to(self.device), layout))
        self._set_positions(dict(enumerate(positions.tolist())))

    def _wrong_layer(self, layer: int) -> ValueError:
        return ValueError(
            f"layers of a token come in order: expected layer {self._next_layer} "
            f"of {self.layers}, got {layer}"
        )

    def _between_tokens(self, method: str) -> None:
        self._join_fill()
        if self._next_layer:
            raise ValueError(
                f"{method} needs a finished token, but layer {self._next_layer} is next"
            )

    def _check_room(self, row_list: list[int], valid: list[int]) -> None:
        for row, taken in zip(row_list, valid, strict=True):
            room = self.max_new_tokens - self._positions[row]
            if row not in self._open_prompts and taken > room:
                raise ValueError(
                    f"expected at most {room} more positions in row {row} "
                    f"(max_new_tokens = {self.max_new_tokens}), got {taken}"
                )

    def _begin_step(self, row_list: list[int] | None) -> None:
        real = [b for b in row_list or () if b >= 0]
        if self.full if row_list is None else any(self.room(b) < 1 for b in real):
            raise ValueError(
                f"no room for another step: all max_new_tokens = {self.max_new_tokens} are taken"
            )
        if self._fill_running:
            self._join_fill()
        self._token = ("step", row_list)
        if self._open_prompts:
            for row in range(self.batch_size) if row_list is None else row_list:
                self._open_prompts.pop(row, None)
        if row_list is None:
            self._plain_steps = self.max_new_tokens - max(self._positions) - 1

    def _finish_step(self, row_list: list[int] | None) -> None:
        self._next_layer = 0
        if self._capturing:  # nothing has run yet; the books are kept at every replay
            return
        if row_list is None:
            self._steps_since += 1
        else:
            positions = self._positions
            for b in row_list:
                if b >= 0:
                    positions[b] += 1
        if not self._implementation.capabilities.fuses_fill:
            self._fill_what_is_due(row_list)

    def _fill_what_is_due(self, row_list: list[int] | None) -> None:
        due: dict[tuple[int, int], list[int]] = {}
        for b in range(self.batch_size) if row_list is None else row_list:
            for work in self.plan.work_at(self._positions[b] - 1) if b >= 0 else ():
                due.setdefault(work, []).append(b)
        for (index, share), members in sorted(due.items(), reverse=True):  # largest blocks first
            everyone = len(members) == self.batch_size
            rows = None if everyone else torch.tensor(members, device=self.device)
            if self._fill_stream is None:
                self._fill(self.plan.levels[index], share, rows)
                continue
            if rows is not None:
                rows.record_stream(self._fill_stream)
            self._fill_stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._fill_stream):
                self._fill(self.plan.levels[index], share, rows)
            self._fill_running = True

    def _fill(self, level: Level, share: int, rows: Tensor | None) -> None:
        if level.steps:
            self._implementation.fill_share(self._state, level, rows, share, share + 1)
        else:
            self._implementation.fill(self._state, level, rows)

    def _keep_for_fills(self) -> None:
        """The state's memory is not reused before fills on the side stream are done with it."""
        if self._fill_stream is not None:
            state = self._state
            for tensor in (state.ring, state.kept, state.spectra, state.positions):
                tensor.record_stream(self._fill_stream)

    def _join_fill(self) -> None:
        """Later launches on the current stream wait for the fills on the side stream."""
        if self._fill_running and self._fill_stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._fill_stream)
            self._fill_running = False

    def _finish_prefill(self, row_list: list[int], valid: list[int]) -> None:
        self._next_layer = 0
        self._set_positions(
            {
                row: self._positions[row] + taken
                for row, taken in zip(row_list, valid, strict=True)
                if row not in self._open_prompts
            }
        )

    def _set_positions(self, targets: Mapping[int, int]) -> None:
        """Rows to new positions; rows that share one are replayed together."""
        groups: dict[int, list[int]] = {}
        for row, position in targets.items():
            groups.setdefault(position, []).append(row)
        for position, rows in groups.items():
            _prefill.replay(self._state, self._implementation, rows, position)
            for row in rows:
                self._positions[row] = position
