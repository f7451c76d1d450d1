"""Streams of many layers without a cache: any implementation for the steps and for each level."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from futurefill_kernels.plan import Plan

from .implementations import combined, make_state
from .timing import captured


class Stream:
    """Tokens of ``plan``, each with the same input u (B, D), through all layers side by side.

    steps, fills: names of what does the steps and each level's fills. h: (D, N) float32, the
    filters of every layer. A token is a replay on a GPU; fills are launches after it.
    """

    def __init__(
        self, plan: Plan, steps: str, fills: Sequence[str], h: Tensor, layers: int, u: Tensor
    ) -> None:
        self.implementation = combined(steps, fills)
        self.state = make_state(self.implementation, fills, plan, h, layers, u.shape[0])
        self.plan, self.u, self.y = plan, u, torch.empty_like(u)
        self._history = self.implementation.make_history(self.state)
        self._step = self.implementation.make_step(self.state)
        self._replay: Callable[[], object] | None = None

    def token(self) -> None:
        """The history and all layers' steps; fills are not among them."""
        if self._history is not None:
            self._history(None)
        layers = self.state.ring.shape[0]
        for layer in range(layers):
            self._step(self.u, None, None, self.y, None, layer, layer == layers - 1)

    def start(self, position: int = 0) -> None:
        """Nothing pending, and all rows at a position."""
        self.state.ring.zero_()
        self.state.positions.fill_(position)

    def fill(self, level: int) -> None:
        """The firing of a level that is due where the stream stands."""
        self.implementation.fill(self.state, self.plan.levels[level], None)

    def run(self, tokens: int, after: Callable[[int], object] | None = None) -> None:
        """From the beginning. after: called with every position when its token is done."""
        if self._replay is None:
            self.start()
            self.token()  # compiles and loads
            self._replay = captured(self.token, self.u.device)
        self.start()
        base = self.plan.base
        for t in range(tokens):
            self._replay()
            if after is not None:
                after(t)
            if (t + 1) % base == 0:
                for level, _ in self.plan.work_at(t):
                    self.fill(level)

    def outputs(self, at: Sequence[int]) -> Tensor:
        """The last layer's outputs (B, D, len(at)) at some positions, in order, of a whole run."""
        wanted, found = set(at), []
        self.run(max(at) + 1, lambda t: found.append(self.y.clone()) if t in wanted else None)
        return torch.stack(found, -1)
