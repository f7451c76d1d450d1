"""``impl="triton"``: Triton kernels; a launch per token, per layer of it and per future fill.

On a CPU it runs only under ``TRITON_INTERPRET=1``, for tests.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..level import Level
from ..plan import Plan
from ..planning.capabilities import CAPABILITIES
from ..state.layout import Layout
from ..state.spectra import arranged_spectra
from ..state.tensors import StreamState
from . import fft_fill
from .base import Books, History, PlainSteps, PromptKernels, Run, Step
from .gpu_made_spectra import made_fill
from .triton_kernels import ops

capabilities = CAPABILITIES["triton"]

SMALLEST_CAPABILITY = (8, 0)

#: Oldest and newest version of Triton that the tests have run with.
TESTED = ((3, 6), (3, 9))


def _missing() -> str | None:
    try:
        found = sys.modules.get("triton") or importlib.util.find_spec("triton")
    except ValueError:  # blocked in sys.modules
        found = None
    if found is None:
        return "Triton is not installed; pip install 'futurefill_kernels[gpu]'"
    return None


def cannot_run(device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
    """Why the kernels cannot run: no Triton, no supported GPU, float64, or too long a stream."""
    reasons = []
    missing = _missing()
    if missing:
        reasons.append(missing)
    if device.type == "cuda":
        if torch.version.hip is not None:
            reasons.append("runs on NVIDIA GPUs, this torch is built for ROCm")
        else:
            capability = torch.cuda.get_device_capability(device)
            if capability < SMALLEST_CAPABILITY:
                got = ".".join(map(str, capability))
                reasons.append(f"needs compute capability 8.0 or newer, {device} has {got}")
    elif device.type != "cpu" or not ops.interpreted():
        reasons.append(f"runs on a CUDA device, not on {device}")
    if dtype == torch.float64:
        reasons.append("computes in float32, not in float64")
    if plan is not None and plan.slots >= 1 << 31:
        reasons.append(f"holds positions in 31 bits, the plan's length is {plan.slots}")
    return reasons


def cannot_compile() -> list[str]:
    """Why kernels cannot be compiled for a GPU that is not here."""
    missing = _missing()
    if missing:
        return [missing]
    return ["TRITON_INTERPRET is set"] if ops.interpreted() else []


def version_note(version: str) -> str | None:
    """What is to be said of a version of Triton: None inside the tested range."""
    found = tuple(int(digits) for digits in re.findall(r"\d+", version)[:2])
    if TESTED[0] <= found <= TESTED[1]:
        return None
    oldest, newest = (".".join(map(str, tested)) for tested in TESTED)
    return f"not tested with this package, {oldest} to {newest} are"


def make_layout(channels: int, groups: int, dtype: torch.dtype, plan: Plan) -> Layout:
    """One tile of all channels, padded to whole warps."""
    return Layout.padded(channels, groups, plan.slots)


def make_spectra(h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> Tensor:
    """Filter spectra (1, rows, 2, filter_lanes)."""
    return arranged_spectra(h, plan, layout, dtype, (arrange_level,) * len(plan.levels))


def arrange_level(spectra: Tensor, level: Level, h: Tensor, layout: Layout) -> None:
    """Nothing where the kernels fill a level: they read ``tiled_spectra``."""
    if not capabilities.has_kernels(level.transform, layout.lanes):
        fft_fill.arrange_level(spectra, level, h, layout)


def make_history(state: StreamState) -> History:
    """What a token's layers share: one launch.

    The cache has checked the arguments, so here and in a step the launch bypasses the op and its
    dispatch.
    """
    return partial(_history, state)


def make_step(state: StreamState) -> Step:
    """One token of one layer after the history: one launch, no allocation, no synchronisation."""
    return partial(_step, state)


def _history(state: StreamState, rows: Tensor | None) -> None:
    from .triton_kernels.launch import history_launch

    history_launch(
        state.ring, state.open_block, state.taps, state.positions, rows, state.token_at, state.undo,
        state.history, state.channels_per_filter, ops.device_info(state.ring.device),
    ).run()  # fmt: skip


def _step(
    state: StreamState,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    rows: Tensor | None,
    layer: int,
    advance: bool,
) -> None:
    from .triton_kernels.launch import apply_launch

    # a kernel gets addresses, which do not say that a negation is outstanding
    pre = pre if pre is None else pre.resolve_neg()
    post = post if post is None else post.resolve_neg()
    u = u.resolve_neg()
    apply_launch(
        u, pre, post, y, state.ring, state.open_block, state.taps, state.skip, state.history,
        state.token_at, state.positions, rows, layer, advance, state.channels_per_filter,
    ).run()  # fmt: skip


def make_plain_steps(state: StreamState, dtype: torch.dtype, books: Books) -> PlainSteps | None:
    """None: only the CPU's engine has a step without Python."""


def make_due_fills(state: StreamState) -> Callable[[], None] | None:
    """None: the cache launches fills."""
    return None


def scratch_nbytes(
    plan: Plan, layout: Layout, layers: int, batch_size: int, dtype: torch.dtype, narrow: bool
) -> int:
    """0: a fill works in registers and in the state."""
    return 0


def reserve_scratch(state: StreamState) -> int:
    """0: there is none."""
    return 0


def make_run(state: StreamState) -> Run | None:
    """None: many steps are as many calls."""
    return None


def fill(state: StreamState, level: Level, rows: Tensor | None) -> None:
    """Future fill of one level for all layers (docs/algorithm.md, equation 3)."""
    if level.made and level.transform <= capabilities.largest_passes:  # some channels at a time
        made_fill(state, level, rows, sys.modules[__name__])
    elif capabilities.has_kernels(level.transform, state.layout.lanes):
        _fill_channels(state, level, rows, 0, state.layout.channels)
    else:
        fft_fill.fill(state, level, rows)


def fill_share(state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int) -> None:
    """Of one firing of a level with slack, the shares of steps ``begin .. end-1``: the same launch
    for a part of the channels.
    """
    if capabilities.has_kernels(level.transform, state.layout.lanes):
        _fill_channels(state, level, rows, *state.layout.channels_of_share(level, begin, end))
    else:
        fft_fill.fill_share(state, level, rows, begin, end)


def _fill_channels(
    state: StreamState, level: Level, rows: Tensor | None, first: int, last: int
) -> None:
    last = min(last, state.channels)  # no programs for padding
    if first < last:
        torch.ops.futurefill_kernels.triton_future_fill(
            state.ring, state.open_block, state.kept, state.spectra, state.positions, rows,
            state.levels, state.length, level.index, first, last, state.channels_per_filter,
        )  # fmt: skip


def prompt_kernels() -> PromptKernels:
    """The ops before and after a prompt's transforms."""
    kernels = torch.ops.futurefill_kernels
    return PromptKernels(kernels.triton_prefill_inputs, kernels.triton_prefill_outputs)
