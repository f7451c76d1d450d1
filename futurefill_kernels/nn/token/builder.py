"""From a `LanguageModel` to the program of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...state.huge_pages import untouched
from ..filters import LongFilter
from ..hyena import Hyena
from ..language_model import Block, LanguageModel
from ..stu import STU
from . import program
from .program import Buffer, Instruction, LongConv, Program

_ALIGNED = 32  # values in 64 bytes of bfloat16: what is used together begins a cache line


def build(model: LanguageModel, batch_size: int, panel: int) -> Program:
    """The token of ``batch_size`` rows, with the model's weights copied in its dtype.

    panel: outputs per panel of packed weights, as the engine has them.
    """
    with torch.no_grad():
        return _Builder(batch_size, panel).language_model(model)


class _Builder:
    """Walks a model as its ``forward`` does and writes the instructions down.

    A method takes the place of its input, and returns that of its output or is given it.
    """

    def __init__(self, batch_size: int, panel: int) -> None:
        self.batch_size, self.panel = batch_size, panel
        self.weights: list[Tensor] = []
        self.weight_count = self.scratch = self.io = 0
        self.short_inputs: dict[nn.Module, int] = {}
        self.convs: list[LongConv] = []
        self.segments: list[tuple[Instruction, ...]] = []
        self.segment: list[Instruction] = []

    def language_model(self, model: LanguageModel) -> Program:
        """The whole program; a builder makes one."""
        vocabulary, channels = model.embedding.weight.shape
        x, normed = self.buffer(channels), self.buffer(channels)
        table = self.constant(model.embedding.weight)
        self.segment.append(program.Embed(x, table, vocabulary, channels))
        for block in model.blocks:
            assert isinstance(block, Block)
            self.norm(block.mixer_norm, x, normed)
            if isinstance(block.mixer, STU):
                self.stu(block.mixer, normed, residual=x)
            else:
                self.hyena(block.mixer, normed, residual=x)
            self.norm(block.mlp_norm, x, normed)
            wide, hidden = self.dense(block.mlp.gate_up, normed), block.mlp.down.in_features
            gated = self.buffer(hidden)
            gelu = block.mlp.activation == "gelu"
            self.segment.append(program.Gate(wide, gated, hidden, gelu))
            self.dense(block.mlp.down, gated, residual=x)
        self.norm(model.norm, x, normed)
        logits = self.product(model.embedding.weight, None, normed)
        self.close()
        return Program(
            segments=tuple(self.segments),
            convs=tuple(self.convs),
            weights=self._joined_weights(),
            scratch=self.scratch,
            io=self.io,
            short_inputs=self.short_inputs,
            logits=logits,
            vocabulary=vocabulary,
        )

    def _joined_weights(self) -> Tensor:
        """All of them, which every token reads: at small pages' ends the processor's prefetching
        would begin anew.
        """
        first = self.weights[0]
        whole = untouched(self.weight_count, dtype=first.dtype, device=first.device, sparse=False)
        return torch.cat(self.weights, out=whole)

    def hyena(self, mixer: Hyena, x: Buffer, residual: Buffer) -> None:
        projected = self.dense(mixer.in_proj, x)
        channels, weight = mixer.out_proj.in_features, mixer.short_conv.weight
        width, taps = weight.shape
        first, piece = self.take_io(self.batch_size * width), self.batch_size * channels
        inputs = self.take_io(self.batch_size * taps * width)
        self.short_inputs[mixer.short_conv] = inputs
        self.segment.append(
            program.ShortConv(
                *(projected, first, inputs, self.constant(weight.T)),
                *(width, taps, mixer.order + 1, self.batch_size),
            )
        )
        output_gate, *gates, v = (
            Buffer(first + i * piece, channels) for i in range(mixer.order + 1)
        )
        last = len(mixer.filters) - 1
        for i, module in enumerate(mixer.filters):
            assert isinstance(module, LongFilter)
            v = self.long_conv(module, v, gates[last - i], output_gate if i == last else None)
        y = self.buffer(channels)
        self.segment.append(program.Load(v, y, channels))
        self.dense(mixer.out_proj, y, residual)

    def stu(self, mixer: STU, x: Buffer, residual: Buffer) -> None:
        channels = mixer.filter.channels
        u = Buffer(self.take_io(self.batch_size * channels), channels)
        self.segment.append(program.Store(self.dense(mixer.proj, x), u, channels))
        y = self.long_conv(mixer.filter, u)
        self.segment.append(program.Add(y, residual, channels))

    def long_conv(
        self, module: LongFilter, u: Buffer, pre: Buffer | None = None, post: Buffer | None = None
    ) -> Buffer:
        """The end of a segment, and the convolution behind it."""
        y = Buffer(self.take_io(self.batch_size * module.channels), module.channels)
        self.convs.append(LongConv(module, u, pre, post, y))
        self.close()
        return y

    def norm(self, norm: nn.RMSNorm, x: Buffer, y: Buffer) -> None:
        eps = torch.finfo(norm.weight.dtype).eps if norm.eps is None else float(norm.eps)
        scale = self.constant(norm.weight)
        self.segment.append(program.Norm(x, y, scale, len(norm.weight), eps))

    def dense(self, linear: nn.Linear, x: Buffer, residual: Buffer | None = None) -> Buffer:
        """The linear map in a new buffer, or added to the residual."""
        return self.product(linear.weight, linear.bias, x, residual)

    def product(
        self, weight: Tensor, bias: Tensor | None, x: Buffer, residual: Buffer | None = None
    ) -> Buffer:
        """The same of a weight (outputs, inputs) and a bias (outputs,)."""
        outputs, inputs = weight.shape
        pad = -outputs % self.panel
        y = self.buffer(outputs) if residual is None else residual
        self.segment.append(
            program.Dense(
                x=x,
                y=y,
                weight=self.constant(program.packed(weight, self.panel)),
                bias=None if bias is None else self.constant(nn.functional.pad(bias, (0, pad))),
                inputs=inputs,
                outputs=outputs,
                panel=self.panel,
                accumulate=residual is not None,
            )
        )
        return y

    def close(self) -> None:
        """End of a segment."""
        self.segments.append(tuple(self.segment))
        self.segment = []

    def buffer(self, channels: int) -> Buffer:
        """(B, channels) with room for whole panels in every row."""
        stride = -(-channels // self.panel) * self.panel
        return Buffer(self.take(self.batch_size * stride), stride)

    def take(self, count: int) -> int:
        """Offset of ``count`` values of scratch."""
        offset = self.scratch
        self.scratch += count + -count % _ALIGNED
        return offset

    def take_io(self, count: int) -> int:
        """Offset of ``count`` values of io."""
        offset = self.io
        self.io += count + -count % _ALIGNED
        return offset

    def constant(self, value: Tensor) -> int:
        """Offset of a copy among the weights."""
        offset, flat = self.weight_count, value.flatten()
        self.weights.append(nn.functional.pad(flat, (0, -len(flat) % _ALIGNED)))
        self.weight_count += len(self.weights[-1])
        return offset
