"""Several GPU implementations in one stream: each part by what is fastest at it.

Ring, positions and taps are the same in all of them; kept input spectra and filter spectra of a
level are those of the implementation that does its fills.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Protocol

import torch
from torch import Tensor

from ..level import Level
from ..plan import Plan
from ..planning.capabilities import Capabilities
from ..state.filters import MakeSpectra
from ..state.layout import Layout
from ..state.spectra import Arrange, arranged_spectra
from ..state.tensors import StreamState
from .base import Books, History, Implementation, PlainSteps, PromptKernels, Run, Step


class GpuFills(Protocol):
    """Fills whose filter spectra are ``tiled_spectra``, level by level in an order of their own;
    methods as of `Implementation`.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Of the implementation, under the name of these fills."""
        ...

    def cannot_run(self, device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
        """Reasons."""
        ...

    def arrange_level(self, spectra: Tensor, level: Level, h: Tensor, layout: Layout) -> None:
        """Bring the spectra of one level into the order that its fills read: a
        ``state.spectra.Arrange``.
        """
        ...

    def fill(self, state: StreamState, level: Level, rows: Tensor | None) -> None:
        """One level's future fill of all layers."""
        ...

    def fill_share(
        self, state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int
    ) -> None:
        """Of one firing of a level with slack, the shares of steps ``begin .. end-1``."""
        ...


@dataclass(frozen=True)
class Mixed:
    """An `Implementation` for streams of one plan.

    steps, prompts: what does histories and steps, and prompts. fills: per level of the plan.
    longer: what does prompts, of a call, from so many positions on, ascending.
    """

    steps: Implementation
    prompts: Implementation
    fills: tuple[GpuFills, ...]
    longer: tuple[tuple[int, Implementation], ...] = ()

    @property
    def capabilities(self) -> Capabilities:
        """Those of what does the steps, under the names of all parts, ``"cuda+triton"``; dtypes
        that all of them keep.
        """
        found = [part.capabilities for part in self._parts]
        own = found[0]
        return replace(
            own,
            name="+".join(dict.fromkeys(x.name for x in found)),
            spectra_dtypes=tuple(
                d for d in own.spectra_dtypes if all(d in x.spectra_dtypes for x in found)
            ),
            ring_dtypes=tuple(d for d in own.ring_dtypes if all(d in x.ring_dtypes for x in found)),
        )

    @property
    def _parts(self) -> tuple[GpuFills | Implementation, ...]:
        return self.steps, self.prompts, *(part for _, part in self.longer), *self.fills

    def cannot_run(self, device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
        """The reasons of all."""
        parts = {part.capabilities.name: part for part in self._parts}
        reasons = [
            f"{name} {reason}"
            for name, part in parts.items()
            for reason in part.cannot_run(device, dtype, plan)
        ]
        if plan is not None and len(plan.levels) != len(self.fills):
            reasons.append(f"fills {len(self.fills)} levels, the plan has {len(plan.levels)}")
        return reasons

    def make_layout(self, channels: int, groups: int, dtype: torch.dtype, plan: Plan) -> Layout:
        """The layout of all of them."""
        return self.steps.make_layout(channels, groups, dtype, plan)

    @property
    def make_spectra(self) -> MakeSpectra:
        """Filter spectra, of each level as what does its fills reads them. Streams whose levels are
        arranged alike get the same function, and so share what it has made.
        """
        return _arranged(tuple(part.arrange_level for part in self.fills))

    def make_history(self, state: StreamState) -> History | None:
        """Of what does the steps."""
        return self.steps.make_history(state)

    def make_step(self, state: StreamState) -> Step:
        """Of what does the steps."""
        return self.steps.make_step(state)

    def make_plain_steps(
        self, state: StreamState, dtype: torch.dtype, books: Books
    ) -> PlainSteps | None:
        """Of what does the steps."""
        return self.steps.make_plain_steps(state, dtype, books)

    def make_due_fills(self, state: StreamState) -> Callable[[], None] | None:
        """None: the cache launches fills."""
        return None

    def scratch_nbytes(
        self, plan: Plan, layout: Layout, layers: int, batch_size: int, dtype: torch.dtype,
        narrow: bool,
    ) -> int:  # fmt: skip
        """Of what does the steps."""
        return self.steps.scratch_nbytes(plan, layout, layers, batch_size, dtype, narrow)

    def reserve_scratch(self, state: StreamState) -> int:
        """Of what does the steps."""
        return self.steps.reserve_scratch(state)

    def make_run(self, state: StreamState) -> Run | None:
        """None: many steps are as many calls."""
        return None

    def fill(self, state: StreamState, level: Level, rows: Tensor | None) -> None:
        """One level's future fill of all layers."""
        self.fills[level.index].fill(state, level, rows)

    def fill_share(
        self, state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int
    ) -> None:
        """Of one firing of a level with slack, the shares of steps ``begin .. end-1``."""
        self.fills[level.index].fill_share(state, level, rows, begin, end)

    def prompt_kernels(self) -> PromptKernels | None:
        """Of what does the prompts, of each call by its length. None where it has none."""
        shortest = self.prompts.prompt_kernels()
        longer = [(n, part.prompt_kernels()) for n, part in self.longer]
        if shortest is None or not longer:
            return shortest

        def of(u: Tensor) -> PromptKernels:
            found = shortest
            for positions, kernels in longer:
                if kernels is not None and u.shape[2] >= positions:
                    found = kernels
            return found

        return PromptKernels(
            lambda u, *rest: of(u).inputs(u, *rest),
            lambda z, u, *rest: of(u).outputs(z, u, *rest),
        )


@lru_cache(maxsize=64)
def _arranged(arrangements: tuple[Arrange, ...]) -> MakeSpectra:
    return partial(arranged_spectra, arrangements=arrangements)


def exact_name(implementation: Implementation) -> str:
    """What ``impl=`` takes for the same again, whatever the rates of the device: a name, or of
    several steps, prompts, with those from some positions on, and the fills of each level:
    ``"cuda;cuda,65536:triton;triton,triton,cuda"``.
    """
    if not isinstance(implementation, Mixed):
        return implementation.capabilities.name
    prompts = [implementation.prompts.capabilities.name]
    prompts += [f"{n}:{part.capabilities.name}" for n, part in implementation.longer]
    fills = ",".join(part.capabilities.name for part in implementation.fills)
    return ";".join((implementation.steps.capabilities.name, ",".join(prompts), fills))
