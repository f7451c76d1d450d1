"""Runs the CUDA kernels' PTX in the emulator that FUTUREFILL_PTXEMU names, on CPU tensors.

Every function launches what its launcher in csrc/cuda launches (launch_shapes), and an access
outside of the tensors, or the layer, that the kernel is given is an error. Options of all:
``arch``; ``edits``, planted faults; ``checks`` for races and uninitialised reads. They return the
emulator's statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from futurefill_kernels.implementations import cuda
from futurefill_kernels.level import Level
from futurefill_kernels.plan import Plan
from futurefill_kernels.state.tensors import StreamState, allocate
from tests.emulation import launch_shapes
from tests.emulation.cuda_compile import Edits, module
from tests.emulation.launch_shapes import CudaLaunch


def make_state(
    filters: Sequence[Tensor],
    plan: Plan,
    batch: int,
    channels: int | None = None,
    skip: Tensor | None = None,
    ring_dtype: torch.dtype | None = None,
) -> StreamState:
    """A GPU stream's tensors, on the CPU."""
    groups = filters[0].shape[0]
    layout = cuda.make_layout(channels or groups, groups, torch.float32, plan)
    return allocate(plan, layout, cuda.make_spectra, filters, batch, skip, ring_dtype=ring_dtype)


def run_fill(
    state: StreamState,
    level: Level,
    rows: Tensor | None = None,
    *,
    memory: int = 1,
    channels: tuple[int, int] | None = None,
    early: bool = False,
    **options: Any,
) -> Any:
    """One level's future fill of all layers, in one kernel.

    channels: first and last + 1 of those done, default all. memory: index into MEMORIES. early:
    in the form of cuda_early, for a level that that has arranged.
    """
    first, last = channels or (0, state.layout.lanes)
    shape = launch_shapes.early_fill if early else launch_shapes.future_fill
    launch = shape(state, level, rows, first, last, memory)
    tensors = (state.ring, state.open_block, state.kept, state.spectra, state.positions, rows)
    return _run(launch, tensors, **options)


def run_long_fill(
    state: StreamState,
    level: Level,
    rows: Tensor | None = None,
    *,
    memory: int = 1,
    channels: tuple[int, int] | None = None,
    **options: Any,
) -> list[Any]:
    """One level's future fill in three passes; statistics of every launch."""
    found = []

    def run(
        state: StreamState, index: int, rows: Tensor | None, scratch: Tensor, *rest: Any
    ) -> None:
        slots = (state.ring, state.open_block)
        own = (scratch, rest[0], *slots, state.kept, state.spectra, state.positions, rows)
        scratch.fill_(float("nan"))
        for launch in launch_shapes.long_fill(
            state, state.plan.levels[index], rows, scratch, *rest, memory=memory
        ):
            found.append(_run(launch, own, **options))

    cuda.long_fill(state, level, rows, *(channels or (0, state.layout.lanes)), run)
    return found


def step_slots(state: StreamState) -> Tensor:
    """What a step reads and writes: of a ring in 16 bits the open block."""
    return state.open_block if state.narrow else state.ring


def run_level(state: StreamState, level: Level, rows: Tensor | None = None, **options: Any) -> None:
    """One level's future fill as impl="cuda" chooses of its kernels."""
    if level.transform <= cuda.capabilities.largest_fused:
        run_fill(state, level, rows, **options)
    else:
        run_long_fill(state, level, rows, **options)


def run_history(state: StreamState, rows: Tensor | None = None, **options: Any) -> Any:
    """The history of all layers."""
    tensors = (step_slots(state), state.taps, state.positions, rows)
    written = (state.token_at, state.undo, state.history)
    return _run(launch_shapes.history(state, rows), (*tensors, *written), **options)


def run_apply(
    state: StreamState,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    rows: Tensor | None,
    layer: int,
    advance: bool,
    **options: Any,
) -> Any:
    """One token of one layer after its history."""
    launch = launch_shapes.apply_step(state, u, pre, post, y, rows, layer, advance)
    skip = None if state.skip is None else state.skip[layer]
    own = (
        step_slots(state)[layer],
        state.taps[layer],
        skip,
        state.history[layer],
        state.token_at[layer],
    )
    return _run(launch, (u, pre, post, y, *own, state.positions, rows), **options)


def run_inputs(
    u: Tensor,
    pre: Tensor | None,
    lengths: Tensor | None,
    x: Tensor,
    held: Tensor | None,
    **options: Any,
) -> Any:
    """The op prefill_inputs."""
    tensors = (u, pre, lengths, x, held)
    return _run(launch_shapes.prefill_inputs(*tensors), tensors, **options)


def run_outputs(
    z: Tensor,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    skip: Tensor | None,
    y: Tensor,
    prompt_fill: Tensor | None,
    ring: Tensor,
    rows: Tensor,
    starts: Tensor | None,
    ends: Tensor,
    layer: int,
    first_channel: int,
    **options: Any,
) -> Any:
    """The op prefill_outputs."""
    tensors = (z, u, pre, post, skip, y, prompt_fill, ring, rows, starts, ends)
    launch = launch_shapes.prefill_outputs(*tensors, layer=layer, first_channel=first_channel)
    own = [None if x is None else x[layer] for x in (skip, prompt_fill, ring)]
    return _run(launch, (z, u, pre, post, y, *own, rows, starts, ends), **options)


def _run(
    launch: CudaLaunch,
    tensors: Sequence[Tensor | None],
    *,
    arch: str = "sm_80",
    edits: Edits = (),
    checks: bool = True,
) -> Any:
    """The launch with pointers into ``tensors``; an access outside of them is an error."""
    compiled = module(launch.file, launch.kernel, arch, edits)
    (kernel,) = compiled.kernels
    found = [x for x in tensors if x is not None and x.numel()]
    arguments = [a if isinstance(a, bytes) else _pointed(a, found) for a in launch.arguments]
    return compiled.launch(
        kernel, launch.grid, launch.threads, arguments, launch.shared,
        racecheck=checks, initcheck=checks, threads=1,
    )  # fmt: skip


def _pointed(address: int, tensors: Sequence[Tensor]) -> Tensor | None:
    """What a pointer points to: a tensor, or a contiguous one from there to its end.

    None for null, and for the end of a tensor, where there is nothing to read.
    """
    ends = [0]
    for x in tensors:
        skipped = (address - x.data_ptr()) // x.element_size()
        if skipped == 0:
            return x
        if x.is_contiguous():
            if 0 < skipped < x.numel():
                return x.view(-1)[skipped:]
            ends.append(x.data_ptr() + x.nbytes)
    if address not in ends:
        raise ValueError(f"a kernel is given {address:#x}, which lies in none of its tensors")
    return None
