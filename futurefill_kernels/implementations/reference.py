"""``impl="reference"``: the two state operations in plain torch, for every device and dtype.

It prepares no spectra: a fill is one FFT convolution of the group's inputs so far with the taps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from ..level import Level
from ..plan import Plan
from ..planning.capabilities import CAPABILITIES
from ..state.convolve import conv_range
from ..state.layout import Layout
from ..state.tensors import StreamState
from .base import Books, History, PlainSteps, PromptKernels, Run, Step

capabilities = CAPABILITIES["reference"]


def cannot_run(device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
    """Nothing speaks against plain torch."""
    return []


def make_layout(channels: int, groups: int, dtype: torch.dtype, plan: Plan) -> Layout:
    """All channels in one tile, every filter row once."""
    return Layout(channels, groups, channels, groups, plan.slots, side_by_side=0, spectra=False)


def make_spectra(h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> Tensor:
    """Nothing: fills read the taps themselves. Returns (1, 0, 2, G)."""
    return torch.empty(1, 0, 2, layout.groups, dtype=dtype, device=h.device)


def make_history(state: StreamState) -> History | None:
    """None: a step is one pass."""
    return None


def make_step(state: StreamState) -> Step:
    """Binds ``step`` to a state.

    The function takes u, pre, post, y: (R, D); rows: (R,) int64 state rows, -1 for padding, or None
    for all; layer; advance: whether the positions of the rows move on.
    """
    return partial(step, state)


def step(
    state: StreamState,
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    y: Tensor,
    rows: Tensor | None,
    layer: int,
    advance: bool,
) -> None:
    """Short-range convolution of one token (docs/algorithm.md, equation 2)."""
    x = u if pre is None else pre.to(state.dtype) * u
    x = x.to(state.dtype)
    taps = state.taps[layer, 0].repeat_interleave(state.channels_per_filter, dim=-1)  # (T_0, D)
    rows = torch.arange(len(u), dtype=torch.int64, device=u.device) if rows is None else rows
    given = (rows >= 0).nonzero()[:, 0]
    if len(given) < len(rows):  # the others are padding
        y[rows < 0] = 0
    at = rows[given]  # (R,)
    if not len(at):
        return
    p = state.positions[at]
    inside = p % taps.shape[0]  # of its block
    back = torch.arange(int(inside.max()) + 1, dtype=p.dtype, device=p.device)  # (n + 1,)
    slots = state.open_block if state.narrow else state.ring
    slot = p % slots.shape[-2]
    block = slots[layer, at[:, None], 0, (slot[:, None] - back).clamp_min(0)]  # (R, n + 1, D)
    state.undo[layer, at, 0, p % state.undo.shape[3]] = block[:, 0]
    state.token_at[layer, at] = p
    newest = taps[0] if state.skip is None else taps[0] + state.skip[layer]
    result = block[:, 0] + newest * x[given]
    block[back > inside[:, None]] = 0  # of blocks before: fills add those
    result += (block[:, 1:] * taps[1 : len(back)]).sum(1)
    # before: y may be u
    slots[layer, at, 0, slot] = x[given].to(state.ring.dtype).to(state.dtype)
    y[given] = (result if post is None else post[given] * result).to(y.dtype)
    if advance:
        state.positions[at] = p + 1


def _by_position(state: StreamState, rows: Iterable[int]) -> dict[int, list[int]]:
    """Indices into rows of the state, those at the same position together; -1 is left out."""
    positions = state.positions.tolist()
    groups: dict[int, list[int]] = {}
    for r, row in enumerate(rows):
        if row >= 0:
            groups.setdefault(positions[row], []).append(r)
    return groups


def make_plain_steps(state: StreamState, dtype: torch.dtype, books: Books) -> PlainSteps | None:
    """None: only the CPU's engine has a step without Python."""


def make_due_fills(state: StreamState) -> Callable[[], None] | None:
    """None: the cache launches fills."""
    return None


def scratch_nbytes(
    plan: Plan, layout: Layout, layers: int, batch_size: int, dtype: torch.dtype, narrow: bool
) -> int:
    """0: torch allocates when it runs."""
    return 0


def reserve_scratch(state: StreamState) -> int:
    """0: there is none."""
    return 0


def make_run(state: StreamState) -> Run | None:
    """None: many steps are as many calls."""
    return None


def fill(state: StreamState, level: Level, rows: Tensor | None) -> None:
    """Future fill of one level for all layers (docs/algorithm.md, equation 3).

    rows: (R,) int64 rows whose position is a boundary where this level fires, or None for all.
    """
    ring, length = state.ring, state.plan.slots
    row_list = range(ring.shape[1]) if rows is None else rows.tolist()
    for p, members in _by_position(state, row_list).items():
        at = [row_list[r] for r in members]
        start = p - level.products(p // level.block) * level.block
        first = p + level.late
        stop = min(first + level.block, length)
        for layer in range(ring.shape[0]):
            inputs = ring[layer, at, 0, start:p].mT.to(state.dtype)  # (R, D, T)
            taps = state.filters[layer, :, : stop - start].to(state.dtype)
            added = conv_range(inputs, taps, first - start, stop - start).mT
            opened = min(state.open_block.shape[-2], stop - first)  # not rounded there
            state.open_block[layer, at, 0, :opened] += added[:, :opened]
            ring[layer, at, 0, first + opened : stop] += added[:, opened:]


def fill_share(state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int) -> None:
    """Of one firing of a level with slack, the shares of steps ``begin .. end-1``: all of it in the
    first one.
    """
    if begin == 0:
        fill(state, level, rows)


def prompt_kernels() -> PromptKernels | None:
    """None: torch does all of a prompt."""
    return None
