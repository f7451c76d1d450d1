"""An implementation and CUDA streams that write down what is asked of them."""

from __future__ import annotations

import contextlib

import torch

from futurefill_kernels.implementations import reference
from futurefill_kernels.planning.capabilities import Capabilities


class Recorder:
    """``reference`` with its launches written down."""

    def __init__(self, launches):
        self.launches = launches
        self.capabilities = Capabilities("recorder", "any")
        self.cannot_run = lambda device, dtype, plan: []
        self.make_layout, self.make_spectra = reference.make_layout, reference.make_spectra

    def make_history(self, state):
        return None

    def make_due_fills(self, state):
        return None

    def scratch_nbytes(self, plan, layout, layers, batch_size, dtype, narrow):
        return 0

    def reserve_scratch(self, state):
        return 0

    def make_step(self, state):
        step = reference.make_step(state)

        def recorded(u, pre, post, y, rows, layer, advance):
            self.launches.append(("step", layer))
            step(u, pre, post, y, rows, layer, advance)

        return recorded

    def make_plain_steps(self, state, dtype, books):
        return None

    def make_run(self, state):
        return None

    def fill(self, state, level, rows):
        self.launches.append(("fill", level.block))
        reference.fill(state, level, rows)

    def fill_share(self, state, level, rows, begin, end):
        reference.fill_share(state, level, rows, begin, end)

    def prompt_kernels(self):
        return None


class SideStreams:
    """Stand-ins for CUDA streams that record who waits and what was launched on which."""

    def __init__(self, monkeypatch, launches):
        self.calls: list[object] = []
        self.side, self.main = self.Stream("side", self.calls), self.Stream("main", self.calls)
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.main)
        self.kept: list[torch.Tensor] = []  # tensors whose memory waits for the side stream
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda x, stream: self.kept.append(x), raising=False
        )
        self._launches = launches

    class Stream:
        def __init__(self, name, calls):
            self.name, self.calls = name, calls

        def wait_stream(self, other):
            self.calls.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def on(self, stream):
        before = len(self._launches)
        yield
        self.calls.append((stream.name, self._launches[before:]))
