"""``impl="cuda"``: the CUDA C++ kernels (csrc/cuda); a launch per token, per layer of it and per
future fill.

Above 8192 points a fill is three launches (csrc/cuda/long_fill.cuh), above 262144 torch.fft does
it (fft_fill.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from .. import native, ops
from ..level import Level
from ..plan import Plan
from ..planning.capabilities import CAPABILITIES
from ..state.layout import Layout
from ..state.spectra import arranged_spectra
from ..state.tensors import StreamState
from . import fft_fill
from .base import Books, History, PlainSteps, PromptKernels, Run, Step
from .gpu_made_spectra import made_fill
from .gpu_passes import MOST_NODES, parts, twist_table

capabilities = CAPABILITIES["cuda"]

#: transform -> (units, channels per unit) whose spectra lie unit by unit (csrc/cuda/fill_config.h)
INTERLEAVED = {4096: (2, 4), 8192: (4, 2)}
#: Fewest points of a node in three passes (likewise).
_NODE_POINTS = 1024


def cannot_run(device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
    """Why the kernels cannot run: device, build, architecture or dtype."""
    reasons = []
    if device.type != "cuda":
        reasons.append(f"runs on CUDA devices, not on {device}")
    missing = native.cuda_unavailable_reason()
    if missing:
        reasons.append(missing)
    elif device.type == "cuda":
        lacking = _architecture_reason(device)
        if lacking:
            reasons.append(lacking)
    if dtype == torch.float64:
        reasons.append("computes in float32, not in float64")
    return reasons


def architecture_reason(capability: tuple[int, int], architectures: str) -> str | None:
    """Why a binary does not run on a GPU, or None.

    Code for sm_XY runs on X.Z with Z >= Y, PTX on every later architecture. architectures: as
    ``torch.ops.futurefill_kernels.cuda_architectures`` says it, "sm_80, sm_90 and PTX of sm_90".
    """
    code, _, ptx = architectures.partition(" and PTX of ")
    major, minor = capability
    versions = [divmod(int(item[3:]), 10) for item in code.split(", ")]
    forward = [divmod(int(item[3:]), 10) for item in ptx.split(", ") if item]
    if any(v[0] == major and v[1] <= minor for v in versions) or any(
        v <= capability for v in forward
    ):
        return None
    return f"the binary has no code for sm_{major}{minor}; it has {architectures}"


@lru_cache(maxsize=16)
def _architecture_reason(device: torch.device) -> str | None:
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return architecture_reason(
        torch.cuda.get_device_capability(device), native.cuda_architectures()
    )


def make_layout(channels: int, groups: int, dtype: torch.dtype, plan: Plan) -> Layout:
    """One tile of all channels, padded to whole warps."""
    return Layout.padded(channels, groups, plan.slots)


def make_spectra(h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> Tensor:
    """Filter spectra (1, rows, 2, filter_lanes), those of large blocks unit by unit."""
    return arranged_spectra(h, plan, layout, dtype, (arrange_level,) * len(plan.levels))


def arrange_level(spectra: Tensor, level: Level, h: Tensor, layout: Layout) -> None:
    """Bring one level of ``tiled_spectra`` into the order that its fills read."""
    if not capabilities.has_kernels(level.transform, layout.lanes):
        fft_fill.arrange_level(spectra, level, h, layout)
    elif level.transform in INTERLEAVED:
        interleave(spectra, level, *INTERLEAVED[level.transform])


def interleave(spectra: Tensor, level: Level, units: int, channels: int) -> None:
    """One level of ``tiled_spectra`` unit by unit: channel c of unit u is ``c units + u`` of its
    group.
    """
    start = level.spectra_offset
    rows = spectra[0, start : start + level.n_spectra * level.transform]
    # (k, pair of entries, entry, re or im, group, channel, unit): a unit's spectrum is contiguous,
    # two entries of a channel are neighbours
    x = rows.view(level.n_spectra, -1, 2, 2, rows.shape[-1] // (units * channels), channels, units)
    rows.copy_(x.permute(0, 4, 6, 1, 5, 2, 3).reshape(rows.shape))


def make_history(state: StreamState) -> History:
    """What a token's layers share: one launch."""
    return partial(ops.history, state)


def make_step(state: StreamState) -> Step:
    """One token of one layer after the history; the last layer's also moves the rows' positions."""
    op = torch.ops.futurefill_kernels.apply_step.default
    ring, open_block, positions = state.ring, state.open_block, state.positions
    taps, skip, shared = state.taps, state.skip, state.channels_per_filter
    history, token_at = state.history, state.token_at

    def step(
        u: Tensor,
        pre: Tensor | None,
        post: Tensor | None,
        y: Tensor,
        rows: Tensor | None,
        layer: int,
        advance: bool,
    ) -> None:
        op(
            u, pre, post, y, ring, open_block, taps, skip, history, token_at, positions, rows,
            layer, advance, shared,
        )  # fmt: skip

    return step


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
    """One level's future fill of all layers and rows: one launch, three, or through torch.fft."""
    if not capabilities.has_kernels(level.transform, state.layout.lanes):
        fft_fill.fill(state, level, rows)
    elif level.made:
        made_fill(state, level, rows, sys.modules[__name__])
    else:
        _fill_channels(state, level, rows, 0, state.layout.lanes)


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
    if first == last:
        return
    if level.transform <= capabilities.largest_fused:
        ops.future_fill(state, level.index, rows, first, last)
    else:
        long_fill(state, level, rows, first, last, ops.long_fill)


def nodes_of(transform: int) -> int:
    """Nodes that the first of three passes makes of a block."""
    return min(transform // _NODE_POINTS, MOST_NODES)


def long_fill(
    state: StreamState,
    level: Level,
    rows: Tensor | None,
    first: int,
    last: int,
    run: Callable[[StreamState, int, Tensor | None, Tensor, Tensor, int, int], None],
) -> None:
    """Future fill of channels first .. last-1 in three passes. run: `ops.long_fill`."""
    transform, nodes = level.transform, nodes_of(level.transform)
    layers, batch = state.ring.shape[:2]
    twist = twist_table(nodes, transform // nodes, 0, state.ring.device)
    n_rows = batch if rows is None else len(rows)
    for part in parts(transform, n_rows, layers, first, last, state.ring.device):
        scratch = part.scratch.view(part.layers, n_rows, transform, part.channels, 2)
        run(state, level.index, rows, scratch, twist, part.layer, part.channel)


def prompt_kernels() -> PromptKernels:
    """The ops before and after a prompt's transforms."""
    kernels = torch.ops.futurefill_kernels
    return PromptKernels(kernels.prefill_inputs, kernels.prefill_outputs)
