"""What captured tokens need where there is no GPU: an implementation that reads no host value, and
graphs that are tapes of the ops of a call.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from futurefill_kernels.checks import HALVES
from futurefill_kernels.decoding import graphs
from futurefill_kernels.implementations import reference
from futurefill_kernels.implementations.select import IMPLEMENTATIONS
from futurefill_kernels.planning.capabilities import Capabilities


class DeviceBooks:
    """History and apply in torch ops that find every position in the state's tensors.

    Tokens of all rows. fills: (position of row 0, block) of every fill that was launched.
    """

    def __init__(self):
        self.capabilities = Capabilities("device-books", "any", ring_dtypes=HALVES, capturable=True)
        self.cannot_run = lambda device, dtype, plan: []
        self.make_spectra = reference.make_spectra
        self.fills: list[tuple[int, int]] = []

    def make_layout(self, channels, groups, dtype, plan):
        return replace(reference.make_layout(channels, groups, dtype, plan), history=True)

    def make_due_fills(self, state):
        return None

    def scratch_nbytes(self, plan, layout, layers, batch_size, dtype, narrow):
        return 0

    def reserve_scratch(self, state):
        return 0

    def make_history(self, state):
        layers, batch_size, _, _, lanes = state.ring.shape
        lags = torch.arange(1, state.taps.shape[2], device=state.ring.device)
        slots = state.open_block if state.narrow else state.ring

        def taken(at):
            """Slots at positions at (B, n) of every layer and row, (layers, B, n, lanes)."""
            index = (at % slots.shape[3])[None, :, :, None]
            index = index.expand(layers, batch_size, at.shape[1], lanes)
            return slots.select(2, 0).gather(2, index)

        def history(rows):
            assert rows is None
            position = state.positions.unsqueeze(1)
            state.token_at.copy_(state.positions.expand(layers, batch_size))
            pending = taken(position)
            undo_slot = (position % state.undo.shape[3])[None, :, None, :, None]
            undo_slot = undo_slot.expand(layers, batch_size, 1, 1, lanes)
            state.undo.scatter_(3, undo_slot, pending.unsqueeze(3))
            past = taken((position - lags).clamp(min=0))
            inside = (lags <= position % state.taps.shape[2]).unsqueeze(0).unsqueeze(3)
            taps = state.taps.select(1, 0).narrow(1, 1, len(lags)).unsqueeze(1)
            taps = taps.repeat_interleave(state.channels_per_filter, dim=-1)
            state.history.copy_(pending.squeeze(2) + (past * inside * taps).sum(2))

        return history

    def make_step(self, state):
        slots = state.open_block if state.narrow else state.ring

        def step(u, pre, post, y, rows, layer, advance):
            assert rows is None
            x = (u if pre is None else pre * u).to(state.dtype)
            weight = state.taps[layer, 0, 0].repeat_interleave(state.channels_per_filter)
            if state.skip is not None:
                weight = weight + state.skip[layer]
            result = state.history[layer] + weight * x
            y.copy_(result if post is None else result * post)
            at = state.token_at[layer]
            slot = (at % slots.shape[3]).unsqueeze(1).unsqueeze(2).expand(-1, 1, x.shape[1])
            stored = x.to(state.ring.dtype).to(state.dtype)
            slots[layer].select(1, 0).scatter_(1, slot, stored.unsqueeze(1))
            if advance:
                state.positions.copy_(at + 1)

        return step

    def make_plain_steps(self, state, dtype, books):
        return None

    def make_run(self, state):
        return None

    def fill(self, state, level, rows):
        self.fills.append((int(state.positions[0]), level.block))
        reference.fill(state, level, rows)

    def fill_share(self, state, level, rows, begin, end):
        reference.fill_share(state, level, rows, begin, end)

    def prompt_kernels(self):
        return None


class _Recording(TorchDispatchMode):
    """Writes ops down, and what tensors held before ops that write to them."""

    def __init__(self):
        super().__init__()
        self.ops = []
        self.before = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[place] if place < len(args) else kwargs[argument.name]
                self.before += [(x, x.clone()) for x in tree_leaves(value)]
        result = func(*args, **kwargs)
        self.ops.append((func, args, kwargs, result))
        return result


class Tapes:
    """`Graphs` on the CPU: a replay runs the ops of the capture again, on the same tensors and with
    the same numbers, and no other line of the call.
    """

    side = None

    def __init__(self):
        self.captures = 0
        self.replays = 0

    def warm(self, call):
        call()

    def capture(self, call):
        self.captures += 1
        with _Recording() as recording:
            call()
        for tensor, value in reversed(recording.before):  # a capture runs nothing
            tensor.copy_(value)

        def replay():
            self.replays += 1
            for func, args, kwargs, result in recording.ops:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

        return replay


def install(monkeypatch):
    """Decoders of ``impl="device-books"`` capture on the CPU. Returns the implementation and the
    graphs of the decoders made from here on.
    """
    implementation, made = DeviceBooks(), []
    monkeypatch.setitem(IMPLEMENTATIONS, "device-books", implementation)
    cannot_capture = graphs.cannot_capture

    def on_any_device(cache, device):
        return cannot_capture(cache, torch.device("cuda"))

    def tapes(device):
        made.append(Tapes())
        return made[-1]

    monkeypatch.setattr(graphs, "cannot_capture", on_any_device)
    monkeypatch.setattr(graphs, "CudaGraphs", tapes)
    return implementation, made
