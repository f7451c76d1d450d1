"""What the instructions mean, in plain torch and in the dtypes of their memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..language_model import ACTIVATIONS
from .program import (
    Add,
    Dense,
    Embed,
    Gate,
    Instruction,
    Load,
    LongConv,
    Memory,
    Norm,
    Program,
    ShortConv,
    Store,
    in_turns,
    unpacked,
)


def run_token(
    program: Program,
    ids: Tensor,
    rows: Sequence[int],
    memory: Memory,
    long_conv: Callable[[LongConv, Tensor, Tensor | None, Tensor | None], Tensor],
) -> Tensor:
    """One token of R rows. Returns logits (R, vocabulary), a view of scratch.

    ids, rows, memory: as in `run_segment`. long_conv: gets conv, u, pre, post and returns y, all
    (R, D); it has the history of u and pre.
    """
    run_segment(program.segments[0], ids, rows, memory)
    for conv, segment in zip(program.convs, program.segments[1:], strict=True):
        u, pre, post, y = conv.views(memory.io, len(ids))
        y.copy_(long_conv(conv, u, pre, post))
        run_segment(segment, ids, rows, memory)
    return program.logits.rows(memory.scratch, len(ids), program.vocabulary)


def run_segment(
    segment: Sequence[Instruction], ids: Tensor, rows: Sequence[int], memory: Memory
) -> None:
    """Run the instructions in order. ids: (R, 1) int64. rows: of the batch, (R,)."""
    for instruction in segment:
        _run(instruction, ids[:, 0], rows, memory)


def _run(i: Instruction, ids: Tensor, rows: Sequence[int], memory: Memory) -> None:
    count, scratch, io = len(ids), memory.scratch, memory.io

    def weights(offset: int, *shape: int) -> Tensor:
        return _block(memory.weights, offset, *shape).to(scratch.dtype)

    match i:
        case Embed():
            table = weights(i.table, i.vocabulary, i.channels)
            i.y.rows(scratch, count, i.channels)[:] = table[ids]
        case Norm():
            x = i.x.rows(scratch, count, i.channels)
            norm = torch.sqrt(x.square().mean(1, keepdim=True) + i.eps)
            i.y.rows(scratch, count, i.channels)[:] = x / norm * weights(i.scale, i.channels)
        case Dense():
            panels = -(-i.outputs // i.panel)
            weight = weights(i.weight, panels, i.inputs, i.panel)
            weight = unpacked(weight, in_turns(memory.weights))
            product = torch.einsum("bi,pio->bpo", i.x.rows(scratch, count, i.inputs), weight)
            product = product.flatten(1)  # (R, panels * panel)
            if i.bias is not None:
                product = product + weights(i.bias, panels * i.panel)
            y = i.y.rows(scratch, count, panels * i.panel)
            y[:] = y + product if i.accumulate else product
        case ShortConv():
            x = i.x.rows(scratch, count, i.channels).to(io.dtype)
            inputs = _block(io, i.inputs, i.batch, i.taps, i.channels)
            inputs[rows] = torch.cat([inputs[rows, 1:], x[:, None]], 1)
            taps = weights(i.weight, i.taps, i.channels).flip(0)
            width = i.channels // i.projections
            y = (taps * inputs[rows]).sum(1).view(count, i.projections, width)
            _block(io, i.y, i.projections, i.batch, width)[:, :count] = y.transpose(0, 1)
        case Gate():
            gate, up = i.x.rows(scratch, count, 2 * i.channels).chunk(2, dim=1)
            activation = ACTIVATIONS["gelu" if i.gelu else "silu"]
            i.y.rows(scratch, count, i.channels)[:] = activation(gate) * up
        case Load():
            i.y.rows(scratch, count, i.channels)[:] = i.x.rows(io, count, i.channels)
        case Store():
            i.y.rows(io, count, i.channels)[:] = i.x.rows(scratch, count, i.channels)
        case Add():
            y = i.y.rows(scratch, count, i.channels)
            y += i.x.rows(io, count, i.channels)


def _block(flat: Tensor, offset: int, *shape: int) -> Tensor:
    """A contiguous piece as a view of a shape."""
    return flat[offset : offset + torch.Size(shape).numel()].view(shape)
