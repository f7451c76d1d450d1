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
from ..filters import LongFilter
from ..language_model import LanguageModel
from ..short_conv import ShortConv, ShortConvState
from .builder import build
from .parts import unknown_parts
from .program import Program, encode
from .program import ShortConv as ShortConvInstruction


def cannot_fuse(model: nn.Module, caches: list[FutureFillCache]) -> list[str]:
    """Why tokens of the model take one call per layer; empty when they can be fused."""
    reasons = unknown_parts(model)
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in model.parameters()):
        reasons.append("parameters that are not float32 on the CPU")
    if any(cache.impl != "cpu" for cache in caches):
        reasons.append(f"impl={caches[0].impl!r}")
    return reasons


class FusedToken:
    """One token of every row. The model's weights are packed here, once.

    model: as `cannot_fuse` accepts it. place: cache and layer of every long filter. short: the
    state of every short convolution; its inputs move into scratch.
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
        self._program = build(model, batch_size, ops.dense_panel())
        self._batch_size, self._place = batch_size, place
        self._segments = [encode(segment) for segment in self._program.segments]
        self._scratch = self._program.weights.new_zeros(self._program.scratch)
        # segments of the newest token that have run
        self._progress = torch.zeros(1, dtype=torch.int64, device="cpu")  # segments of a token run
        self._bind(short)

    @property
    def program(self) -> Program:
        """The instructions of a token, and its weights."""
        return self._program

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights and of scratch, the short convolutions' inputs included."""
        return self._program.weights.nbytes + self._scratch.nbytes

    def clone(
        self, short: dict[ShortConv, ShortConvState], caches: list[FutureFillCache]
    ) -> FusedToken:
        """The same for cloned short states; the packed weights are shared.

        caches: not needed, since a call brings them.
        """
        other = copy.copy(self)
        other._scratch, other._progress = self._scratch.clone(), self._progress.clone()
        other._bind(short)
        return other

    def begin(self) -> None:
        """A token is next of which nothing has run: `abort` is about it from here on."""
        self._progress.zero_()

    def __call__(self, ids: Tensor, caches: list[FutureFillCache]) -> Tensor:
        """ids: (B, 1) int64. Returns logits (B, 1, V). After `begin`; after an exception comes
        `abort`.
        """
        op, segments = self._op, self._segments
        weights, scratch, progress = self._program.weights, self._scratch, self._progress
        op(segments[0], ids, weights, scratch, progress)
        for segment, (cache, layer, u, pre, post, y) in enumerate(self._calls, 1):
            caches[cache].step(u, layer, pre=pre, post=post, out=y)
            op(segments[segment], ids, weights, scratch, progress)
        return self._logits.clone(memory_format=torch.contiguous_format)

    def abort(self) -> None:
        """Take back what the newest token moved here: the inputs of short convolutions.

        A segment of the token has run as a whole or not at all.
        """
        ran = int(self._progress)
        rows = torch.ones(self._batch_size, dtype=torch.bool, device="cpu")
        for states in self._moved[:ran]:
            for state in states:
                state.take_back(rows)
        self._progress.zero_()

    def _bind(self, short: dict[ShortConv, ShortConvState]) -> None:
        """Views of scratch: the last inputs of short convolutions, what the long convolutions read
        and write, logits.
        """
        program, scratch, batch_size = self._program, self._scratch, self._batch_size
        moved: dict[int, ShortConvState] = {}
        for module, state in short.items():
            offset, inputs = program.short_inputs[module], state.inputs
            state.inputs = scratch[offset : offset + inputs.numel()].view(inputs.shape)
            state.inputs.copy_(inputs)
            moved[offset] = state
        self._moved = [
            [moved[i.inputs] for i in segment if isinstance(i, ShortConvInstruction)]
            for segment in program.segments
        ]
        self._calls = [
            (*self._place[conv.filter], *conv.views(scratch, batch_size)) for conv in program.convs
        ]
        self._logits = program.logits.rows(scratch, batch_size, program.vocabulary)[:, None]
