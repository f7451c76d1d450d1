"""``impl="cpu"``: the C++ engine (csrc/cpu), one call per layer and token."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .. import native, ops
from ..level import Level
from ..plan import Plan
from ..planning.capabilities import CAPABILITIES
from ..state.layout import Layout, tile_filters
from ..state.spectra import filter_spectra
from ..state.tensors import StreamState, level_table
from .base import Books, History, PlainSteps, PromptKernels, Run, Step

capabilities = CAPABILITIES["cpu"]


def cannot_run(device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
    """Why the engine cannot run: not built, or not a CPU."""
    reasons = []
    if device.type != "cpu":
        reasons.append(f"runs on the CPU, not on {device}")
    missing = native.cpu_unavailable_reason()
    if missing:
        reasons.append(missing)
    return reasons


def make_layout(channels: int, groups: int, dtype: torch.dtype, plan: Plan) -> Layout:
    """Tiles as wide as a vector register, or narrow where one such holds all channels.

    A filter row shared by whole tiles is stored once and broadcast; one shared by fewer channels
    is stored for each of them.
    """
    lanes = native.tile_lanes(dtype, channels)
    # tiles a large power of two apart would share a few cache sets
    slots = plan.slots + 16 if plan.slots >= 256 and plan.slots % 64 == 0 else plan.slots
    if groups < channels and channels // groups % lanes == 0:
        stored, filter_lanes = groups, 1
    else:
        stored, filter_lanes = channels, lanes
    return Layout(
        channels, stored, lanes, filter_lanes, slots, capabilities.largest_direct,
        work_gaps=native.work_gaps(),
    )  # fmt: skip


def make_spectra(h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> Tensor:
    """(layout.groups, L) taps -> (filter tiles, rows, 2, filter_lanes).

    The rows of a direct level hold its taps, two per row, instead of spectra.
    """
    assert plan.filter_length is not None
    spectra = filter_spectra(h, plan, dtype)
    for level in plan.levels:
        start = level.spectra_offset
        if layout.is_direct(level):
            rows = spectra[start : start + level.n_spectra * level.transform].flatten(0, 1)
            used = min((level.n_spectra + 1) * level.block, h.shape[1], plan.filter_length)
            rows.zero_()[:used] = h[:, :used].T
    return tile_filters(spectra, layout)


def make_history(state: StreamState) -> History | None:
    """None: a step is one pass."""
    return None


class _Bound:
    """A state that the engine has checked, at an address that lives as long as this object."""

    __slots__ = ("__weakref__", "_state", "address")

    def __init__(self, state: StreamState, like: Tensor) -> None:
        self._state = state
        self.address = ops.bind(state, like)
        weakref.finalize(self, ops.unbind, self.address)


def make_step(state: StreamState) -> Step:
    """One token of one layer, which layer 0 begins with the fills that are due; the last advances.

    The state's tensors are checked and read once, when the first step tells the inputs' dtype.
    After that a step is one C call without the dispatcher, whose work on sixteen arguments takes
    longer than a token of few channels. A graph of torch.compile gets the op instead.
    """
    bound: _Bound | None = None
    address = 0
    call, plain_call, _ = native.bound_step()
    is_compiling = torch.compiler.is_dynamo_compiling  # one call where is_compiling takes two
    count = state.positions.shape[0]

    def step(
        u: Tensor,
        pre: Tensor | None,
        post: Tensor | None,
        y: Tensor,
        rows: Tensor | None,
        layer: int,
        advance: bool,
    ) -> None:
        nonlocal bound, address
        if is_compiling():
            ops.step(state, u, y, pre=pre, post=post, rows=rows, layer=layer, advance=advance)
            return
        # an address does not say that a negation is outstanding, as of the imaginary part of a
        # conjugate
        if u.is_neg():
            u = u.resolve_neg()
        if pre is not None and pre.is_neg():
            pre = pre.resolve_neg()
        if post is not None and post.is_neg():
            post = post.resolve_neg()
        if bound is None:
            bound = _Bound(state, u)
            address = bound.address
        if pre is None and post is None and rows is None:
            error = plain_call(address, u.data_ptr(), y.data_ptr(), layer)
        else:
            error = call(
                address,
                u.data_ptr(),
                None if pre is None else pre.data_ptr(),
                None if post is None else post.data_ptr(),
                y.data_ptr(),
                None if rows is None else rows.data_ptr(),
                count if rows is None else rows.shape[0],
                layer,
            )
        if error:
            raise RuntimeError(error.decode())

    return step


def make_plain_steps(state: StreamState, dtype: torch.dtype, books: Books) -> PlainSteps | None:
    """Steps of all rows in one C call (csrc/python), where that is built."""
    module = native.plain_step()
    if module is None:
        return None
    sizes = state.positions.shape[0], state.channels
    like = torch.empty(sizes, dtype=dtype, device=state.ring.device)
    bound, functions = _Bound(state, like), native.addresses_of_steps()
    layers = state.ring.shape[0]
    return PlainSteps(*module.make(functions, bound.address, bound, books, like, layers))


def make_due_fills(state: StreamState) -> Callable[[], None]:
    """The fills that the next token would begin with."""
    return partial(ops.due_fills, state)


def scratch_nbytes(
    plan: Plan, layout: Layout, layers: int, batch_size: int, dtype: torch.dtype, narrow: bool
) -> int:
    """Twiddles, and of every thread trees and made spectra of the largest fill; all share it."""
    jobs, float64 = layers * layout.tiles, dtype == torch.float64
    return ops.scratch_nbytes(
        level_table(plan.levels, layout), batch_size, jobs, layout.lanes, float64, narrow
    )


def reserve_scratch(state: StreamState) -> int:
    """Allocate what scratch_nbytes says."""
    layers, batch_size, tiles, _, lanes = state.ring.shape
    kinds = state.kept.dtype == torch.float64, state.ring.dtype != state.kept.dtype
    what = state.levels, batch_size, layers * tiles, lanes, *kinds
    ops.reserve_scratch(*what)
    return ops.scratch_nbytes(*what)


def make_run(state: StreamState) -> Run | None:
    """Many steps of a state of one layer in one C call, which the first call's dtype binds."""
    bound: _Bound | None = None
    call = native.bound_step()[2]

    def run(u: Tensor, pre: Tensor | None, post: Tensor | None, y: Tensor, rectified: bool) -> None:
        nonlocal bound
        if bound is None:
            bound = _Bound(state, u)
        error = call(
            bound.address,
            u.data_ptr(),
            None if pre is None else pre.data_ptr(),
            None if post is None else post.data_ptr(),
            y.data_ptr(),
            u.shape[0],
            rectified,
        )
        if error:
            raise RuntimeError(error.decode())

    return run


def fill(state: StreamState, level: Level, rows: Tensor | None) -> None:
    """One level's future fill of all layers."""
    if level.made:
        ops.made_fill(state, level.index, rows)
    elif level.plain:
        ops.future_fill(state, level.index, rows)
    else:
        fill_share(state, level, rows, 0, max(level.steps, 1))


def fill_share(state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int) -> None:
    """Of one firing of a level with slack, the shares of steps ``begin .. end-1``."""
    ops.fill_share(state, level.index, rows, begin, end)


def prompt_kernels() -> PromptKernels | None:
    """None: torch does all of a prompt."""
    return None
