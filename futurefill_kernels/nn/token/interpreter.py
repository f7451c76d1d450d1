"""What the instructions mean, in plain torch and in any floating point dtype."""

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
    LongConv,
    Norm,
    Program,
    ShortConv,
)


def run_token(
    program: Program,
    ids: Tensor,
    scratch: Tensor,
    long_conv: Callable[[LongConv, Tensor, Tensor | None, Tensor | None], Tensor],
) -> Tensor:
    """One token of every row. Returns logits (B, vocabulary), a view of scratch.

    ids, scratch: as in `run_segment`. long_conv: gets conv, u, pre, post and returns y, all
    (B, D); it has the history of u and pre.
    """
    run_segment(program.segments[0], ids, program.weights, scratch)
    for conv, segment in zip(program.convs, program.segments[1:], strict=True):
        u, pre, post, y = conv.views(scratch, len(ids))
        y.copy_(long_conv(conv, u, pre, post))
        run_segment(segment, ids, program.weights, scratch)
    return program.logits.rows(scratch, len(ids), program.vocabulary)


def run_segment(
    segment: Sequence[Instruction], ids: Tensor, weights: Tensor, scratch: Tensor
) -> None:
    """Run the instructions in order. ids: (B, 1) int64. weights, scratch: flat, of one dtype."""
    for instruction in segment:
        _run(instruction, ids[:, 0], weights, scratch)


def _run(i: Instruction, ids: Tensor, weights: Tensor, scratch: Tensor) -> None:
    batch_size = len(ids)
    match i:
        case Embed():
            table = _block(weights, i.table, i.vocabulary, i.channels)
            i.y.rows(scratch, batch_size, i.channels)[:] = table[ids]
        case Norm():
            x = i.x.rows(scratch, batch_size, i.channels)
            scale = _block(weights, i.scale, i.channels)
            norm = torch.sqrt(x.square().mean(1, keepdim=True) + i.eps)
            i.y.rows(scratch, batch_size, i.channels)[:] = x / norm * scale
        case Dense():
            panels = -(-i.outputs // i.panel)
            weight = _block(weights, i.weight, panels, i.inputs, i.panel)
            product = torch.einsum("bi,pio->bpo", i.x.rows(scratch, batch_size, i.inputs), weight)
            product = product.flatten(1)  # (B, panels * panel)
            if i.bias is not None:
                product = product + _block(weights, i.bias, panels * i.panel)
            y = i.y.rows(scratch, batch_size, panels * i.panel)
            y[:] = y + product if i.accumulate else product
        case ShortConv():
            x = i.x.rows(scratch, batch_size, i.channels)
            inputs = _block(scratch, i.inputs, batch_size, i.taps, i.channels)
            weight = _block(weights, i.weight, i.taps, i.channels)
            width = i.channels // i.projections
            inputs[:] = torch.cat([inputs[:, 1:], x[:, None]], 1)
            y = (weight.flip(0) * inputs).sum(1).view(batch_size, i.projections, width)
            _block(scratch, i.y, i.projections, batch_size, width)[:] = y.transpose(0, 1)
        case Gate():
            gate, up = i.x.rows(scratch, batch_size, 2 * i.channels).chunk(2, dim=1)
            activation = ACTIVATIONS["gelu" if i.gelu else "silu"]
            i.y.rows(scratch, batch_size, i.channels)[:] = activation(gate) * up
        case Add():
            y = i.y.rows(scratch, batch_size, i.channels)
            y += i.x.rows(scratch, batch_size, i.channels)


def _block(flat: Tensor, offset: int, *shape: int) -> Tensor:
    """A contiguous piece as a view of a shape."""
    return flat[offset : offset + torch.Size(shape).numel()].view(shape)
