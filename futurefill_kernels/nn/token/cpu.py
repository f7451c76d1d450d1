"""One token of a `LanguageModel` on the CPU as one call.

The op ``token`` runs the token's program (csrc/bindings/cpu_token.cpp), the steps of the long
convolutions' streams between its segments included.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ...cache.cache import FutureFillCache
from ...checks import DTYPES, dtype_names
from ..filters import LongFilter
from ..language_model import LanguageModel
from ..short_conv import ShortConv, ShortConvState
from .builder import build
from .parts import unknown_parts
from .program import Instruction, Memory, Program, StreamStep, encode
from .program import ShortConv as ShortConvInstruction
from .streams import BoundStreams


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
    """One token of every row, or of some, as one op. The model's weights are packed here, once.

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
        dtype = model.embedding.weight.dtype
        panel = torch.ops.futurefill_kernels.dense_panel(dtype is torch.float64)
        self._op = torch.ops.futurefill_kernels.token.default
        self._program = build(model, batch_size, panel)
        self._batch_size, self._place = batch_size, place
        #: Rows of the newest token, None for all.
        self.rows: list[int] | None = None
        self._index = torch.zeros(0, dtype=torch.int64, device="cpu")  # the same as a tensor
        # instructions that ran in all: counted by the op, before this token, and after it
        self._progress = torch.zeros(1, dtype=torch.int64, device="cpu")
        self._ran = self._will_have_run = 0
        self._code = torch.zeros(0, 0, dtype=torch.int64, device="cpu")
        self._streams: BoundStreams | None = None  # those that the code names
        self._bind(self._program.memory(), short)

    def takes(self, caches: list[FutureFillCache]) -> bool:
        """Whether the caches still take inputs in the model's dtype: a wider one may have come."""
        dtype = self._memory.io.dtype
        return all([cache.dtype is dtype for cache in caches])  # noqa: C419  half a generator's time

    @property
    def program(self) -> Program:
        """The instructions of a token, and its weights."""
        return self._program

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, of the program, and of what a token writes, the short
        convolutions' inputs included.
        """
        books = (self._code, self._index, self._progress)
        return self._memory.nbytes + sum(x.nbytes for x in books)

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
        self._ran = self._will_have_run
        if rows is not None and rows != self.rows:
            self._index = torch.tensor(rows, dtype=torch.int64, device="cpu")
        self.rows = rows

    def __call__(self, ids: Tensor, caches: list[FutureFillCache]) -> Tensor:
        """ids: (R, 1) int64. Returns logits (R, 1, V) in the model's dtype.

        After `begin`; after an exception comes `abort`. Keeps no books of the caches: the caller
        begins and finishes their tokens.
        """
        memory = self._memory
        if self._streams is None or not self._streams.are_of(caches):
            streams = BoundStreams(caches, memory.io)
            self._code = encode(self.instructions(streams.addresses))
            self._instructions = len(self._code)
            self._streams = streams
        index = None if self.rows is None else self._index
        self._op(self._code, ids, index, memory.weights, memory.scratch, memory.io, self._progress)
        self._will_have_run = self._ran + self._instructions
        return self._logits_of(ids.shape[0])

    def _logits_of(self, count: int) -> Tensor:
        """A copy of the first rows' logits, (count, 1, V)."""
        if count not in self._logits:
            place, vocabulary = self._program.logits, self._program.vocabulary
            self._logits[count] = place.rows(self._memory.scratch, count, vocabulary)[:, None]
        logits, dtype = self._logits[count], self._memory.io.dtype
        if logits.dtype is dtype:
            return logits.clone(memory_format=torch.contiguous_format)
        return torch.empty_like(logits, dtype=dtype, memory_format=torch.contiguous_format).copy_(
            logits
        )

    def abort(self) -> None:
        """Take back what the newest token moved here: the inputs of short convolutions."""
        total = int(self._progress)
        rows = torch.zeros(self._batch_size, dtype=torch.bool, device="cpu")
        rows[slice(None) if self.rows is None else self.rows] = True
        for instruction in self.instructions([0] * len(self._place))[: total - self._ran]:
            if isinstance(instruction, ShortConvInstruction):
                self._moved[instruction.inputs].take_back(rows)
        self._ran = self._will_have_run = total

    def instructions(self, addresses: list[int]) -> list[Instruction | StreamStep]:
        """The whole token. addresses: of the caches' bound streams, for its long convolutions."""
        program = self._program
        found: list[Instruction | StreamStep] = list(program.segments[0])
        for conv, segment in zip(program.convs, program.segments[1:], strict=True):
            cache, layer = self._place[conv.filter]
            found += [conv.step(addresses[cache], layer), *segment]
        return found

    def _bind(self, memory: Memory, short: dict[ShortConv, ShortConvState]) -> None:
        """The memory of tokens, with the last inputs of short convolutions."""
        self._memory, self._streams = memory, None
        self._logits: dict[int, Tensor] = {}  # views by the number of rows
        self._moved: dict[int, ShortConvState] = {}  # by where their inputs are
        for module, state in short.items():
            offset, inputs = self._program.short_inputs[module], state.inputs
            state.inputs = memory.io[offset : offset + inputs.numel()].view(inputs.shape)
            state.inputs.copy_(inputs)
            self._moved[offset] = state

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: bound streams are those of the caches they were bound to."""
        return {**self.__dict__, "_streams": None}
