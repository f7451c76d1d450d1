"""What GPU implementations share, with plain torch in place of their kernels, on any device.

A history and steps after it, prompts between two kernels; fills are those of ``reference``.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from types import SimpleNamespace

import torch

from futurefill_kernels.implementations import reference
from futurefill_kernels.implementations.base import PromptKernels


def plain_inputs(u, pre, lengths, x, held):
    """The op prefill_inputs in plain torch."""
    value = u.float() if pre is None else u.float() * pre.float()
    if lengths is not None:
        value = value * (torch.arange(u.shape[2]) < lengths[:, None, None])
    x.zero_()
    x[..., : u.shape[2]] = value
    if held is not None:
        held[:] = value


def plain_outputs(
    z, u, pre, post, skip, y, prompt_fill, ring, rows, starts, ends, layer, first_channel
):
    """The op prefill_outputs in plain torch."""
    length = ring.shape[3] if prompt_fill is None else prompt_fill.shape[3]
    own = slice(first_channel, first_channel + u.shape[1])
    starts = torch.zeros_like(ends) if starts is None else starts
    for r, (row, start, end) in enumerate(zip(rows, starts, ends, strict=True)):
        value = z[r, :, start : start + u.shape[2]]
        if skip is not None:
            x = u[r].float() if pre is None else u[r].float() * pre[r].float()
            value = value + skip[layer, own, None] * x * (torch.arange(u.shape[2]) < end - start)
        y[r] = value if post is None else value * post[r].float()
        if prompt_fill is not None:
            prompt_fill[layer, row, 0, :, own] = z[r, :, end : end + length].T
        ring[layer, row, 0, :length, own] = z[r, :, end : end + length].T


def implementation() -> SimpleNamespace:
    """Named ``"plain gpu"``."""
    capabilities = dataclasses.replace(reference.capabilities, name="plain gpu")
    own = {
        "capabilities": capabilities,
        "make_layout": _layout,
        "make_history": lambda state: partial(_history, state),
        "make_step": lambda state: partial(_step, state),
        "prompt_kernels": lambda: PromptKernels(plain_inputs, plain_outputs),
    }
    return SimpleNamespace(**vars(reference) | own)


def _layout(channels, groups, dtype, plan):
    return dataclasses.replace(reference.make_layout(channels, groups, dtype, plan), history=True)


def _slots(state):
    return state.open_block if state.narrow else state.ring


def _history(state, rows):
    slots, base, channels = _slots(state), state.taps.shape[2], state.channels
    for row in range(len(state.positions)) if rows is None else rows.tolist():
        if row < 0:
            continue
        p = int(state.positions[row])
        state.token_at[:, row] = p
        if p >= state.length:
            continue
        at = p % slots.shape[3]
        state.undo[:, row, 0, p % state.undo.shape[3]] = slots[:, row, 0, at]
        older = slots[:, row, 0, at - p % base : at, :channels].flip(1)  # (layers, n, D)
        taps = state.taps[:, 0, 1 : 1 + older.shape[1], : state.layout.groups]
        taps = taps.repeat_interleave(state.channels_per_filter, dim=-1)
        state.history[:, row, :channels] = slots[:, row, 0, at, :channels] + (older * taps).sum(1)


def _step(state, u, pre, post, y, rows, layer, advance):
    slots, channels = _slots(state), state.channels
    x = u.float() if pre is None else u.float() * pre.float()
    newest = state.taps[layer, 0, 0, : state.layout.groups]
    newest = newest.repeat_interleave(state.channels_per_filter)
    if state.skip is not None:
        newest = newest + state.skip[layer, :channels]
    for r, row in enumerate(range(len(u)) if rows is None else rows.tolist()):
        if row < 0:
            y[r] = 0
            continue
        p = int(state.token_at[layer, row])
        result = state.history[layer, row, :channels] + newest * x[r]
        y[r] = result if post is None else result * post[r].float()
        slots[layer, row, 0, p % slots.shape[3], :channels] = x[r].to(state.ring.dtype).float()
        if advance:
            state.positions[row] = p + 1
