"""What a module offers to implement the two operations of a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..level import Level
from ..plan import Plan
from ..planning.capabilities import Capabilities
from ..state.layout import Layout
from ..state.tensors import StreamState
from .gpu_prompt_by_fft import Inputs, Outputs

#: step(u, pre, post, y, rows, layer, advance): one token of one layer, written to y
Step = Callable[[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None, int, bool], None]

#: history(rows): before a token of some rows, None for all, the sums over older inputs that the
#: steps of all its layers need
History = Callable[[Tensor | None], None]


class PromptKernels(NamedTuple):
    """The two kernels around the transforms of a prompt; see gpu_prompt_by_fft."""

    inputs: Inputs
    outputs: Outputs


class PlainSteps(NamedTuple):
    """Steps of all rows that do all of a method of ``FutureFillCache``, books included. They give
    None where the call is not the common one, and nothing has happened.

    step(u, layer, pre, post, rows, out). run(u, pre, post), generate(u_t, steps, rectified): many
    tokens of a stream of one layer without slack; Ctrl-C between them takes them back.
    take_back(): whether rows are where the newest of these two left them, which is taken back; the
    books are not. kept_bytes(): what is kept for that. reorder(rows, branches, state,
    everything): whether row ``b`` has become what row ``rows[b]`` was, a list of them; addresses of
    cache/compiled_branches.py, and whether slots may be used that no step has come near. No token
    or prompt is under way.
    """

    step: Callable[[Tensor, int, Tensor | None, Tensor | None, Any, Tensor | None], Tensor | None]
    run: Callable[[Tensor, Tensor | None, Tensor | None], Tensor | None]
    generate: Callable[[Tensor, int, bool], Tensor | None]
    take_back: Callable[[], bool]
    kept_bytes: Callable[[], int]
    reorder: Callable[[Any, int, int, bool], bool]


#: run(u, pre, post, y, rectified): steps of all rows, one after the other; (n, B, D), contiguous. y
#: may be u one step later, which then feed on themselves: on max(y, 0) where rectified
Run = Callable[[Tensor, Tensor | None, Tensor | None, Tensor, bool], None]


class Books(Protocol):
    """What a step of all rows reads and writes of a stream's books; see cache/positions.py."""

    plain: int
    layer: int
    open: bool


class Implementation(Protocol):
    """The contract; ``reference`` is its plainest example."""

    @property
    def capabilities(self) -> Capabilities:
        """Its record."""
        ...

    def cannot_run(self, device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
        """Reasons why it cannot run, one sentence each; empty when it can."""
        ...

    def make_layout(self, channels: int, groups: int, dtype: torch.dtype, plan: Plan) -> Layout:
        """How channels and time are stored."""
        ...

    def make_spectra(self, h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> Tensor:
        """One layer's prepared filters from taps h (layout.groups, L)."""
        ...

    def make_history(self, state: StreamState) -> History | None:
        """What is launched once before a token's steps, or None where a step is one pass."""
        ...

    def make_step(self, state: StreamState) -> Step:
        """The function for one token of one layer; see reference.make_step."""
        ...

    def make_plain_steps(
        self, state: StreamState, dtype: torch.dtype, books: Books
    ) -> PlainSteps | None:
        """Steps without Python, or None where there are none. dtype: of the inputs."""
        ...

    def make_due_fills(self, state: StreamState) -> Callable[[], None] | None:
        """What runs the fills that are due and have not run, where a token of layer 0 begins with
        them; None where the cache launches fills.
        """
        ...

    def scratch_nbytes(
        self, plan: Plan, layout: Layout, layers: int, batch_size: int, dtype: torch.dtype,
        narrow: bool,
    ) -> int:  # fmt: skip
        """Bytes that threads need for fills beside a state; narrow: one with a ring of 16 bits."""
        ...

    def reserve_scratch(self, state: StreamState) -> int:
        """Allocate them; how many they are."""
        ...

    def make_run(self, state: StreamState) -> Run | None:
        """The function for many steps of a state of one layer in one call, or None where there is
        none: then ``step`` is called for each.
        """
        ...

    def fill(self, state: StreamState, level: Level, rows: Tensor | None) -> None:
        """One level's future fill of all layers; see reference.fill."""
        ...

    def fill_share(
        self, state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int
    ) -> None:
        """Of one firing of a level with slack, the shares of steps ``begin .. end-1``."""
        ...

    def prompt_kernels(self) -> PromptKernels | None:
        """Its kernels around the transforms of a prompt, or None where torch does all of it."""
        ...
