"""The instructions of a token and how they are written down for the op that runs them.

What an instruction means is `interpreter`'s to say. It works on a `Memory`, and names places in it
by offsets, counted in values. A program is made for a batch of ``B`` rows; a token may be of ``R``
of them, whose values are then the first ``R`` rows of every buffer.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...checks import state_dtype
from ..filters import LongFilter


@dataclass(frozen=True)
class Memory:
    """What instructions read and write, three flat tensors.

    weights: in the model's dtype. scratch: what they compute with, float32, or float64 for a
    float64 model. io: what convolutions read and write, and the last inputs of the short ones; in
    the model's dtype, as the layers of a prompt have them.
    """

    weights: Tensor
    scratch: Tensor
    io: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all three."""
        return self.weights.nbytes + self.scratch.nbytes + self.io.nbytes


@dataclass(frozen=True)
class Buffer:
    """``B`` rows in scratch or io: row ``b`` begins at ``offset + b * stride``."""

    offset: int
    stride: int

    def rows(self, flat: Tensor, count: int, width: int) -> Tensor:
        """The first rows, (count, width), a view. The stride is at least the width."""
        end = self.offset + count * self.stride
        return flat[self.offset : end].view(count, self.stride)[:, :width]


@dataclass(frozen=True)
class Embed:
    """``y = table[ids]``. table: (vocabulary, channels) of weights."""

    y: Buffer
    table: int
    vocabulary: int
    channels: int


@dataclass(frozen=True)
class Norm:
    """``y = x / sqrt(mean(x^2) + eps) * scale``. scale: (channels,) of weights."""

    x: Buffer
    y: Buffer
    scale: int
    channels: int
    eps: float


@dataclass(frozen=True)
class Dense:
    """``y = x weight^T + bias``, or added to y.

    x: ``inputs`` wide. y: ``outputs`` wide, rounded up to whole panels. weight, bias: by panels of
    outputs, (panels, inputs, panel) as `packed` has them and (panels * panel,) of weights, zero
    beyond the outputs. accumulate: whether to add.
    """

    x: Buffer
    y: Buffer
    weight: int
    bias: int | None
    inputs: int
    outputs: int
    panel: int
    accumulate: bool


@dataclass(frozen=True)
class ShortConv:
    """A depthwise convolution with the newest inputs, dealt out to ``projections`` of a mixer.

    x: ``channels`` wide. y: offset in io of (projections, B, channels / projections). inputs:
    offset in io of (B, taps, channels), the last inputs of every row of the batch, oldest first; x
    becomes the newest, rounded to the dtype of io. weight: (taps, channels) of weights, tap 0 for
    the newest input. batch: ``B``.
    """

    x: Buffer
    y: int
    inputs: int
    weight: int
    channels: int
    taps: int
    projections: int
    batch: int


@dataclass(frozen=True)
class Gate:
    """``y = activation(x[:, :channels]) * x[:, channels:]``. gelu: with tanh, otherwise silu."""

    x: Buffer
    y: Buffer
    channels: int
    gelu: bool


@dataclass(frozen=True)
class Load:
    """``y = x``. x: in io."""

    x: Buffer
    y: Buffer
    channels: int


@dataclass(frozen=True)
class Store:
    """``y = x``, rounded to the dtype of io. y: in io."""

    x: Buffer
    y: Buffer
    channels: int


@dataclass(frozen=True)
class Add:
    """``y = y + x``. x: in io."""

    x: Buffer
    y: Buffer
    channels: int


@dataclass(frozen=True)
class StreamStep:
    """A step of a layer of a bound stream (`ops.bind`): a `LongConv` as the op runs it.

    u, pre, post, y: offsets in io of (R, channels).
    """

    stream: int
    layer: int
    u: int
    pre: int | None
    post: int | None
    y: int
    channels: int


Instruction = Embed | Norm | Dense | ShortConv | Gate | Load | Store | Add

#: An instruction's place here is its opcode, that of a `StreamStep` comes next;
#: csrc/bindings/cpu_token.cpp has the same list.
INSTRUCTIONS = (Embed, Norm, Dense, ShortConv, Gate, Load, Store, Add)
_OPCODES = (*INSTRUCTIONS, StreamStep)
#: Columns of a row: the opcode and the fields of the longest, `Dense`.
WIDTH = 11


@dataclass(frozen=True)
class LongConv:
    """A long convolution between two segments: ``y = post * (conv(pre * u) + skip * pre * u)``.

    All of the filter's channels, in io, row after row; there may be no pre and no post.
    """

    filter: LongFilter
    u: Buffer
    pre: Buffer | None
    post: Buffer | None
    y: Buffer

    def views(self, io: Tensor, count: int) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """The first rows of u, pre, post and y, (count, channels) each."""

        def rows(buffer: Buffer) -> Tensor:
            return buffer.rows(io, count, self.filter.channels)

        pre = None if self.pre is None else rows(self.pre)
        post = None if self.post is None else rows(self.post)
        return rows(self.u), pre, post, rows(self.y)

    def step(self, stream: int, layer: int) -> StreamStep:
        """The same on a layer of a bound stream."""
        pre = None if self.pre is None else self.pre.offset
        post = None if self.post is None else self.post.offset
        channels = self.filter.channels
        return StreamStep(stream, layer, self.u.offset, pre, post, self.y.offset, channels)


@dataclass(frozen=True)
class Program:
    """A token of a model: a segment, then a long convolution and a segment for each of ``convs``.

    weights: flat. scratch, io: values of the others of `Memory`. short_inputs: offset in io of the
    last inputs of every `nn.ShortConv`. logits: (B, vocabulary) of scratch, there after the last
    segment.
    """

    segments: tuple[tuple[Instruction, ...], ...]
    convs: tuple[LongConv, ...]
    weights: Tensor
    scratch: int
    io: int
    short_inputs: Mapping[nn.Module, int]
    logits: Buffer
    vocabulary: int

    def memory(self) -> Memory:
        """Its weights with new scratch and io, zero."""
        scratch = self.weights.new_zeros(self.scratch, dtype=state_dtype(self.weights.dtype))
        return Memory(self.weights, scratch, self.weights.new_zeros(self.io))


def packed(weight: Tensor, panel: int) -> Tensor:
    """A weight (outputs, inputs) as (panels, inputs, panel), zero beyond the outputs. In bfloat16
    the two halves of every panel stand in turns: of 32 bits a shift and a mask make two numbers.
    """
    outputs = nn.functional.pad(weight, (0, 0, 0, -len(weight) % panel))
    panels = outputs.unflatten(0, (-1, panel)).transpose(1, 2)
    return panels.unflatten(2, (2, -1)).mT.flatten(2) if in_turns(weight) else panels


def unpacked(panels: Tensor, in_turns: bool) -> Tensor:
    """The panels with their outputs in order."""
    return panels.unflatten(2, (-1, 2)).mT.flatten(2) if in_turns else panels


def in_turns(weights: Tensor) -> bool:
    """Whether `packed` puts the halves of a panel in turns."""
    return weights.dtype is torch.bfloat16


def encode(segment: Sequence[Instruction | StreamStep]) -> Tensor:
    """The instructions as rows for the op ``token``, (n, WIDTH) int64: opcode, then fields.

    A buffer takes two places, a float the bits of a float64; an absent offset is -1.
    """
    rows = [[_OPCODES.index(type(i)), *_values(i)] for i in segment]
    padded = [row + [0] * (WIDTH - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device="cpu").view(-1, WIDTH)


def _values(record: Instruction | StreamStep | Buffer) -> list[int]:
    values: list[int] = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Buffer):
            values += _values(value)
        elif isinstance(value, float):
            values += struct.unpack("q", struct.pack("d", value))
        else:
            values.append(-1 if value is None else int(value))
    return values
