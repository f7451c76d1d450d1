"""What a stream of many layers takes by its parts: a token's steps, and firings of every level.

Caches are cold, as in a model whose weights are read between two tokens. The sum leaves out what
the host takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from futurefill_kernels.plan import Plan

from .streams import Stream
from .timing import measure, measure_cold

#: Firings of a group that are measured; those between two of them lie on a line.
_FIRINGS = 4


@dataclass
class Parts:
    """Seconds, each measured once.

    h: (D, N) filters of all layers. u: (B, D) inputs.
    """

    h: Tensor
    layers: int
    u: Tensor
    repeats: int
    _steps: dict[tuple[str, int], float] = field(default_factory=dict)
    _firings: dict[tuple[str, int, int, bool], dict[int, float]] = field(default_factory=dict)

    def stream(self, plan: Plan, steps: str, fills: list[str]) -> float:
        """Of a token of a plan, averaged over its length."""
        total = self.steps(steps, plan.base)
        for level, name in zip(plan.levels, fills, strict=True):
            total += self.level(name, plan.slots, level.block, level.radix, level.made)
        return total

    def steps(self, name: str, block: int) -> float:
        """Of a token in the middle of its block."""
        if (name, block) not in self._steps:
            stream = self._one_level(name, 2 * block, block, False)

            def place() -> None:
                stream.state.positions.fill_(block + block // 2)

            def token() -> None:
                place()
                stream.token()

            calls = {"token": token, "place": place}
            times = measure_cold(calls, device=self.u.device, repeats=self.repeats)
            seconds = (times["token"] + times["place"] * -1.0).p50
            self._steps[name, block] = max(seconds, 0.0)
        return self._steps[name, block]

    def level(self, name: str, length: int, block: int, radix: int, made: bool = False) -> float:
        """Of all firings of a level, per token of ``length``."""
        group = list(self.firings(name, block, radix, made))
        groups, rest = divmod(length, block * radix)
        partial_group = group[: max(-(-rest // block) - 1, 0)]
        return (groups * sum(group) + sum(partial_group)) / length

    def firings(self, name: str, block: int, radix: int, made: bool) -> Iterator[float]:
        """Of each firing of a group, the one after n blocks with n products."""
        key = name, block, radix, made
        if key not in self._firings:
            self._firings[key] = self._measure(*key)
        found = sorted(self._firings[key].items())
        for n in range(1, radix):
            below = max((pair for pair in found if pair[0] <= n), key=lambda pair: pair[0])
            above = min((pair for pair in found if pair[0] >= n), key=lambda pair: pair[0])
            share = (n - below[0]) / max(above[0] - below[0], 1)
            yield below[1] + share * (above[1] - below[1])

    def _measure(self, name: str, block: int, radix: int, made: bool) -> dict[int, float]:
        """By products; the last firing of a group, which keeps nothing, and some before it."""
        stream, last = self._one_level(name, radix * block, block, made), radix - 1
        few = {1, last, *range(2, last, max(1, (last - 1) // _FIRINGS)), max(last - 1, 1)}
        found = {}
        for n in sorted(few):
            stream.start(n * block)
            call = {name: partial(stream.fill, 0)}
            if made:  # asks the host for what it does
                times = measure(call, device=self.u.device, repeats=self.repeats, cold=True)
            else:
                few_calls = 2 if block >= 8192 else 4
                times = measure_cold(
                    call, device=self.u.device, repeats=self.repeats, inner=few_calls
                )
            found[n] = max(times[name].p50, 0.0)
        return found

    def _one_level(self, name: str, length: int, block: int, made: bool) -> Stream:
        """Only filters that are as long as it."""
        if self.u.device.type == "cuda":
            torch.cuda.empty_cache()
        plan = Plan(length, (block,), made_from=block if made else None)
        return Stream(plan, name, [name], self.h[:, :length], self.layers, self.u)
