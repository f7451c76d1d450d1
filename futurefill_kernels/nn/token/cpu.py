"""One token of a `LanguageModel` on the CPU without the overhead of a call per layer.

Between two long convolutions stands a segment of the token's program, which the op token_segment
runs (csrc/bindings/cpu_token.cpp). So a token is one op per segment and one ``cache.step`` per long
convolution.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ...cache.cache import FutureFillCache
from ...checks import DTYPES, dtype_names
from ..filters import LongFilter
from ..language_model import LanguageModel
from ..short_conv import ShortConv, ShortConvState
from .builder import build
from .parts import unknown_parts
from .program import Memory, Program, encode
from .program import ShortConv as ShortConvInstruction

#: Cache and layer of a long convolution, and the places of its u, pre, post and y.
_Call = tuple[int, int, Tensor, Tensor | None, Tensor | None, Tensor]


def cannot_fuse(model: nn.Module, caches: list[FutureFillCache]) -> list[str]:
    """Why tokens of the model take one call per layer; empty when they can be fused."""
    reasons = unknown_parts(model)
    filters = {p for m in model.modules() if isinstance(m, LongFilter) for p in m.parameters()}
    weights = [p for p in model.parameters() if p not in filters]
    if any(p.device.type != "cpu" for p in weights):
        reasons.append("parameters that are not on the CPU")
    dtypes = tuple({p.dtype: None for p in weights})
    if len(dtypes) > 1 or not set(dtypes) <= set(DTYPES):
        reasons.append(
            f"parameters that are not all of one of {dtype_names(DTYPES)}: {dtype_names(dtypes)}"
        )
    if any(cache.impl != "cpu" for cache in caches):
        reasons.append(f"impl={caches[0].impl!r}")
    return reasons


class FusedToken:
    """One token of every row, or of some. The model's weights are packed here, once.

    model: as `cannot_fuse` accepts it. place: cache and layer of every long filter. short: the
    state of every short convolution; its inputs move into a program's io.
    """

    def __init__(
        self,
        model: LanguageModel,
        batch_size: int,
        place: dict[LongFilter, tuple[int, int]],
        short: dict[ShortConv, ShortConvState],
    ) -> None:
        self.model = model
        ops = torch.ops.futurefill_kernels
        self._op = ops.token_segment.default
        dtype = model.embedding.weight.dtype
        self._program = build(model, batch_size, ops.dense_panel(dtype is torch.float64))
        self._batch_size, self._place = batch_size, place
        self._segments = [encode(segment) for segment in self._program.segments]
        #: Rows of the newest token, None for all.
        self.rows: list[int] | None = None
        self._index = torch.zeros(0, dtype=torch.int64, device="cpu")  # the same as a tensor
        self._progress = torch.zeros(1, dtype=torch.int64, device="cpu")  # its segments that ran
        self._bind(self._program.memory(), short)

    def takes(self, caches: list[FutureFillCache]) -> bool:
        """Whether the caches still take inputs in the model's dtype: a wider one may have come."""
        return all(cache.dtype is self._memory.io.dtype for cache in caches)

    @property
    def program(self) -> Program:
        """The instructions of a token, and its weights."""
        return self._program

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights and of what a token writes, the short convolutions' inputs
        included.
        """
        return self._memory.nbytes

    def clone(
        self, short: dict[ShortConv, ShortConvState], caches: list[FutureFillCache]
    ) -> FusedToken:
        """The same for cloned short states; the packed weights are shared.

        caches: not needed, since a call brings them.
        """
        other = copy.copy(self)
        memory = self._memory
        other._progress = self._progress.clone()
        other._bind(Memory(memory.weights, memory.scratch.clone(), memory.io.clone()), short)
        return other

    def begin(self, rows: list[int] | None = None) -> None:
        """A token of the rows (default all) is next of which nothing has run: `abort` is about it
        from here on.
        """
        self._progress.zero_()
        if rows is not None and rows != self.rows:
            self._index = torch.tensor(rows, dtype=torch.int64, device="cpu")
        self.rows = rows

    def __call__(self, ids: Tensor, caches: list[FutureFillCache]) -> Tensor:
        """ids: (R, 1) int64. Returns logits (R, 1, V) in the model's dtype.

        After `begin`; after an exception comes `abort`.
        """
        op, segments, memory, progress = self._op, self._segments, self._memory, self._progress
        weights, scratch, io, rows = memory.weights, memory.scratch, memory.io, self.rows
        index = None if rows is None else self._index
        calls, logits = self._views(len(ids))
        op(segments[0], ids, index, weights, scratch, io, progress)
        for segment, (cache, layer, u, pre, post, y) in enumerate(calls, 1):
            caches[cache].step(u, layer, pre=pre, post=post, rows=rows, out=y)
            op(segments[segment], ids, index, weights, scratch, io, progress)
        return logits.to(weights.dtype, copy=True, memory_format=torch.contiguous_format)

    def abort(self) -> None:
        """Take back what the newest token moved here: the inputs of short convolutions.

        A segment of the token has run as a whole or not at all.
        """
        ran = int(self._progress)
        rows = torch.zeros(self._batch_size, dtype=torch.bool, device="cpu")
        rows[slice(None) if self.rows is None else self.rows] = True
        for states in self._moved[:ran]:
            for state in states:
                state.take_back(rows)
        self._progress.zero_()

    def _bind(self, memory: Memory, short: dict[ShortConv, ShortConvState]) -> None:
        """The memory of tokens, with the last inputs of short convolutions."""
        self._memory = memory
        self._found: dict[int, tuple[list[_Call], Tensor]] = {}
        moved: dict[int, ShortConvState] = {}
        for module, state in short.items():
            offset, inputs = self._program.short_inputs[module], state.inputs
            state.inputs = memory.io[offset : offset + inputs.numel()].view(inputs.shape)
            state.inputs.copy_(inputs)
            moved[offset] = state
        self._moved = [
            [moved[i.inputs] for i in segment if isinstance(i, ShortConvInstruction)]
            for segment in self._program.segments
        ]

    def _views(self, count: int) -> tuple[list[_Call], Tensor]:
        """Of a token of so many rows: its steps of long convolutions, and logits (R, 1, V)."""
        if count not in self._found:
            program, memory = self._program, self._memory
            calls = [(*self._place[c.filter], *c.views(memory.io, count)) for c in program.convs]
            logits = program.logits.rows(memory.scratch, count, program.vocabulary)
            self._found[count] = calls, logits[:, None]
        return self._found[count]
