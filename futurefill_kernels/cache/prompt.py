"""Many tokens at once: a prompt before the stream, or a chunk inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..implementations.base import Implementation, PromptKernels
from ..implementations.gpu_prompt_by_fft import prompt_by_fft
from ..state.convolve import fast_conv_range
from ..state.filters import KeepSpectrum
from ..state.huge_pages import empty
from ..state.layout import from_tiles, to_tiles
from ..state.open_block import store_inputs
from ..state.tensors import StreamState
from .call import Call, runs
from .chunk import Chunks, NextInput, steps_are_cheaper
from .held import HeldPrompts
from .open_inputs import Past, channels_of
from .prompt_spectra import PromptSpectra
from .replay import move_rows


class Prefill(HeldPrompts):
    """Many tokens of one state at once.

    spectra: kept for later prompts, or None.
    """

    def __init__(
        self, state: StreamState, implementation: Implementation, spectra: PromptSpectra | None
    ) -> None:
        super().__init__(state)
        self._implementation, self.spectra = implementation, spectra
        self._chunks = Chunks(state, implementation)
        # whether inputs of open blocks are in the ring too, from which rows are built again
        self._stored = False

    @property
    def chunks_nbytes(self) -> int:
        """Bytes that positions inside the stream have left beside the state."""
        return self._chunks.nbytes

    @property
    def starts(self) -> Mapping[int, int]:
        """Where in the state the rows were that the newest call stepped."""
        return self._chunks.starts

    def begin(self) -> None:
        """A new call or token: the call before is not going to be taken back."""
        self._chunks.begin()
        self._stored = False

    def finish(self, ends: Mapping[int, int]) -> list[int]:
        """After a call's last layer: rows inside the stream stand at their ends.

        Returns those whose fills are due there.
        """
        stepped = self._chunks.finish(ends)
        self._stored = True  # every layer has done it
        self._replay({row: end for row, end in ends.items() if row not in stepped})
        return stepped

    def take_back(self, held: dict[int, list[Past | None]], positions: Mapping[int, int]) -> None:
        """The newest call is taken back: rows wait for a prompt again of which only ``held`` has
        come, those inside the stream are at positions again.
        """
        stepped = self._chunks.take_back()
        if self._state.prompt_fill is not None:  # else nothing else has changed
            targets = {row: p for row, p in positions.items() if row not in stepped}
            if self._state.narrow and not self._stored:  # else open blocks may be others
                for row, position in targets.items():
                    store_inputs(self._state, row, position)
                self._stored = True
            self._replay(targets)
        self.come_back(held)

    def reorder(self, rows: Sequence[int]) -> None:
        """Row ``b`` becomes what row ``rows[b]`` was. None is stale."""
        self.begin()
        if self._held or self.forgotten:
            super().reorder(rows)

    def clone(self, state: StreamState) -> Prefill:
        """The same for a cloned state."""
        spectra = None if self.spectra is None else self.spectra.clone(state.prepared.bank)
        other = Prefill(state, self._implementation, spectra)
        self.copy_to(other)
        return other

    def tokens(self, call: Call, positions: Sequence[int]) -> Tensor:
        """Outputs of a call, rows in their prompt or anywhere in the stream.

        positions: (B,) of all rows. Returns y (R, D, P) like u, contiguous. Pending outputs of rows
        that are in the stream may be stale until ``finish``.
        """
        if call.layer == 0 and self._stale:  # a prompt writes all that is read of its rows
            for row in self._held.keys() & set(call.rows):
                self._stale.pop(row, None)
        groups: dict[int | None, list[int]] = {}
        _, seen = self.earlier(call)
        width = call.u.shape[2]
        # a call longer than what came before costs least as a part of the whole
        goes_on = [r for r, n in enumerate(seen) if n >= width]
        if len(goes_on) == len(seen):
            y = self._by_torch(call, self.go_on)
            return y if y.dtype is call.u.dtype else y.to(call.u.dtype)
        y = empty(*call.u.shape, dtype=call.u.dtype, device=call.u.device)
        if goes_on:
            y[goes_on] = self._by_torch(call.part(goes_on), self.go_on).to(y.dtype)
        for r, row in enumerate(call.rows):
            if seen[r] < width:
                groups.setdefault(None if row in self._held else positions[row], []).append(r)
        kernels = self._implementation.prompt_kernels()
        stepped: list[int] = []
        for position, members in groups.items():
            if position is None and kernels is not None:
                for here in runs(members):
                    self._prompt_between_kernels(call.part(here), y[here], kernels)
            elif position is not None and self._by_steps(len(members), position, y.shape[2]):
                stepped += members
            else:
                run = self._prompt if position is None else partial(self._chunk, position)
                y[members] = self._by_torch(call.part(members), run).to(y.dtype)
        if stepped:
            part = call.part(stepped)
            starts = {row: positions[row] for row in part.rows}
            y[stepped] = self._chunks.run(
                part.layer, starts, part.lengths, part.u, part.pre, part.post
            )
        return y

    def steps(self, call: Call, positions: Sequence[int]) -> Tensor:
        """The same of rows inside the stream by steps, whatever is cheaper; not where slack has
        transforms under way that are of several layers.
        """
        if self._state.plan.slack_from is not None and len(self.filters) > 1:
            return self.tokens(call, positions)
        starts = {row: positions[row] for row in call.rows}
        y = self._chunks.run(call.layer, starts, call.lengths, call.u, call.pre, call.post)
        return y.contiguous()

    def generate(
        self, u_t: Tensor, steps: int, next_input: NextInput, positions: Sequence[int]
    ) -> Tensor:
        """Inputs (B, D, steps) that follow u_t, as `Chunks.generate`; all rows are in the stream.

        positions: (B,) of all rows.
        """
        new = self._chunks.generate(dict(enumerate(positions)), u_t, steps, next_input)
        return new.contiguous()

    def _by_steps(self, rows: int, position: int, width: int) -> bool:
        """Whether positions inside the stream are taken as steps; a transform needs the prompts'
        fill, and what slack has under way is of all layers.
        """
        state = self._state
        if state.prompt_fill is None:
            return True
        return state.plan.slack_from is None and steps_are_cheaper(state, rows, position, width)

    def _replay(self, targets: Mapping[int, int]) -> None:
        """Rows whose inputs are stored to positions, by the prompts' fill."""
        if targets:
            assert self._state.prompt_fill is not None
            move_rows(self._state, self._implementation, targets, self._state.prompt_fill)

    def _prompt_between_kernels(self, call: Call, y: Tensor, kernels: PromptKernels) -> None:
        """Tokens that continue the rows' prompts, by torch.fft between two kernels, into y."""
        earlier, seen = self.earlier(call)
        width = max(seen) + call.u.shape[2]
        held = torch.empty(*y.shape[:2], width, dtype=torch.float32, device=y.device)
        for r, past in enumerate(earlier):
            if past is not None:
                held[r, :, : seen[r]] = channels_of(past, held.shape[1])
        prompt_by_fft(
            self._state, self.filters.layer(call.layer), call.u, call.pre, call.post, y, held, seen,
            call.lengths, call.layer, call.rows, *kernels, None if any(seen) else self._keep(call),
        )  # fmt: skip
        if not bool(y.sum(dtype=torch.float32).isfinite()):
            y.copy_(self._by_torch(call, self._prompt))  # keeps a NaN where it belongs
            return
        # only now: a call that runs out of memory can be repeated
        self.hold(call, held, [s + n for s, n in zip(seen, call.lengths, strict=True)])

    def _by_torch(self, call: Call, run: Callable[[Call, Tensor], Tensor]) -> Tensor:
        """Outputs of a call with gates and skip. run: the convolution of its gated inputs."""
        skip, width = self._state.skip, call.u.shape[2]
        x, dtype = call.u, self._state.dtype
        if x.dtype is not dtype:
            x = x.to(dtype)
        if call.pre is not None:
            x = x * call.pre
        if min(call.lengths) < width:
            lengths = torch.tensor(call.lengths, device="cpu")
            inside = torch.arange(width, device="cpu") < lengths[:, None]
            x = x.where(inside[:, None].to(x.device), 0)  # whatever the padding holds
        y = run(call, x)
        if skip is not None:
            y += skip[call.layer, : x.shape[1], None] * x
        return y if call.post is None else y * call.post

    def _prompt(self, call: Call, x: Tensor) -> Tensor:
        """Outputs of gated inputs x (R, D, P) that continue the rows' prompts."""
        earlier, seen = self.earlier(call)
        width, first = x.shape[2], min(seen)
        whole = x
        if any(seen):
            whole = x.new_zeros(*x.shape[:2], max(seen) + width)
            for r, past in enumerate(earlier):
                if past is not None:
                    whole[r, :, : seen[r]] = channels_of(past, whole.shape[1])
                whole[r, :, seen[r] : seen[r] + width] = x[r]
        ends = [s + n for s, n in zip(seen, call.lengths, strict=True)]
        outputs = self._whole_prompt(call, whole, ends, first)
        self.hold(call, whole, ends)
        if not any(seen):
            return outputs
        return torch.stack(
            [outputs[r, :, s - first : s - first + width] for r, s in enumerate(seen)]
        )

    def _whole_prompt(self, call: Call, x: Tensor, ends: list[int], first: int) -> Tensor:
        """Outputs from position ``first`` on; leaves the prompts' future fill in the state.

        x: (R, D, P) gated inputs since the prompts' starts, zero from each row's end on.
        first: before every end. Returns (R, D, P - first). One FFT convolution, O(P log P) time;
        nothing of size P stays in the state.
        """
        total, length = x.shape[2], self._state.plan.slots
        keep = None if first else self._keep(call)
        result = fast_conv_range(x, self.filters.layer(call.layer), first, total + length, keep)
        for r, (row, end) in enumerate(zip(call.rows, ends, strict=True)):
            filled = result[r, :, end - first : end - first + length]
            self._write_fill(call.layer, row, filled)
        return result[..., : total - first]

    def _keep(self, call: Call) -> KeepSpectrum | None:
        """What has the filters' spectrum of a call; one position may be padding."""
        if self.spectra is None or call.u.shape[2] == 1:
            return None
        return self.spectra.of_layer(call.layer)

    def _chunk(self, position: int, call: Call, x: Tensor) -> Tensor:
        """Outputs of positions inside the stream, from everything that the rows have seen.

        x: (R, D, P) gated inputs from ``position`` on; they are stored. Returns (R, D, P).
        """
        state, layer, rows = self._state, call.layer, call.rows
        stop = position + max(call.lengths)  # padding may reach behind the stream's end
        given = x[..., : stop - position]
        if state.narrow:
            for row in rows:
                store_inputs(state, row, position, layer)
        state.ring[layer, rows, :, position:stop] = to_tiles(given, state.layout).to(
            state.ring.dtype
        )
        inputs = from_tiles(state.ring[layer, rows, :, :stop], state.layout).to(state.dtype)
        assert state.prompt_fill is not None
        filled = from_tiles(state.prompt_fill[layer, rows, :, position:stop], state.layout)
        taps = self.filters.layer(layer)
        y = filled + fast_conv_range(inputs, taps, position, stop)
        if state.narrow:  # what was rounded to be stored is not so in its own output
            newest = taps[:, 0].repeat_interleave(x.shape[1] // len(taps))[:, None]
            y += newest * (given - inputs[..., position:])
        return pad(y, (0, x.shape[2] - given.shape[2]))
