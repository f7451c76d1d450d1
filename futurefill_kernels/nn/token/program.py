"""The instructions of a token and how they are written down for the op that runs them.

What an instruction means is `interpreter`'s to say. It works on ``scratch`` and reads ``weights``,
both flat; it names places in them by offsets, counted in values. The rows of the batch are ``B``.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..filters import LongFilter


@dataclass(frozen=True)
class Buffer:
    """``B`` rows in scratch: row ``b`` begins at ``offset + b * stride``."""

    offset: int
    stride: int

    def rows(self, scratch: Tensor, batch_size: int, width: int) -> Tensor:
        """(B, width), a view of scratch. The stride is at least the width."""
        end = self.offset + batch_size * self.stride
        return scratch[self.offset : end].view(batch_size, self.stride)[:, :width]


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

    x: ``inputs`` wide. y: ``outputs`` wide, rounded up to whole panels. weight, bias: packed by
    panels of outputs, (panels, inputs, panel) and (panels * panel,) of weights, zero beyond the
    outputs. accumulate: whether to add.
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

    x: (B, channels). y: offset of (projections, B, channels / projections). line: offset of room
    for (channels,), undefined afterwards. inputs: offset of (B, taps, channels), the last inputs,
    oldest first; x becomes the newest. weight: (taps, channels) of weights, tap 0 for the newest
    input.
    """

    x: Buffer
    y: int
    line: int
    inputs: int
    weight: int
    channels: int
    taps: int
    projections: int


@dataclass(frozen=True)
class Gate:
    """``y = activation(x[:, :channels]) * x[:, channels:]``.

    x: (B, 2 channels). y: (B, channels). gelu: with tanh, otherwise silu.
    """

    x: Buffer
    y: Buffer
    channels: int
    gelu: bool


@dataclass(frozen=True)
class Add:
    """``y = y + x``. x, y: (B, channels)."""

    x: Buffer
    y: Buffer
    channels: int


Instruction = Embed | Norm | Dense | ShortConv | Gate | Add

#: An instruction's place here is its opcode; csrc/bindings/cpu_token.cpp has the same list.
INSTRUCTIONS = (Embed, Norm, Dense, ShortConv, Gate, Add)
#: Columns of a row: the opcode and the fields of the longest, `Dense`.
WIDTH = 11


@dataclass(frozen=True)
class LongConv:
    """A long convolution between two segments: ``y = post * (conv(pre * u) + skip * pre * u)``.

    All (B, channels of the filter) in scratch; there may be no pre and no post.
    """

    filter: LongFilter
    u: Buffer
    pre: Buffer | None
    post: Buffer | None
    y: Buffer

    def views(
        self, scratch: Tensor, batch_size: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """The places of u, pre, post and y."""

        def rows(buffer: Buffer) -> Tensor:
            return buffer.rows(scratch, batch_size, self.filter.channels)

        pre = None if self.pre is None else rows(self.pre)
        post = None if self.post is None else rows(self.post)
        return rows(self.u), pre, post, rows(self.y)


@dataclass(frozen=True)
class Program:
    """A token of a model: a segment, then a long convolution and a segment for each of ``convs``.

    weights: flat. scratch: values, zero at first. short_inputs: offset in scratch of the
    last inputs of every `nn.ShortConv`. logits: (B, vocabulary), there after the last segment.
    """

    segments: tuple[tuple[Instruction, ...], ...]
    convs: tuple[LongConv, ...]
    weights: Tensor
    scratch: int
    short_inputs: Mapping[nn.Module, int]
    logits: Buffer
    vocabulary: int


def encode(segment: Sequence[Instruction]) -> Tensor:
    """The instructions as rows for the op token_segment, (n, WIDTH) int64: opcode, then fields.

    A buffer takes two places, a float the bits of a float64; an absent offset is -1.
    """
    rows = [[INSTRUCTIONS.index(type(i)), *_values(i)] for i in segment]
    padded = [row + [0] * (WIDTH - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device="cpu").view(-1, WIDTH)


def _values(record: Instruction | Buffer) -> list[int]:
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
