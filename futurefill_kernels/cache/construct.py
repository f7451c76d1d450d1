"""What a new cache is made of: an implementation, a plan made for it, and the state's tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..implementations.base import Implementation
from ..implementations.select import candidates, check_plan, fastest_parts, resolve
from ..plan import Plan
from ..planning.device import DeviceInfo
from ..planning.make_plan import make_plan
from ..planning.memory import check_memory
from ..planning.small import check_memory_choice, made_small
from ..planning.workload import Workload
from ..state.layout import Layout
from ..state.tensors import StreamState, allocate, state_nbytes
from .checks import Sizes, check_rollback

#: What filters' ends are compared with: older inputs may be 12 decades above the newest ones, and
#: what is cut is still below the rounding of these.
_DECADES = 1e-12


class Kept(NamedTuple):
    """Dtypes of what a state keeps: filter spectra, taps and the ring."""

    spectra: torch.dtype
    filters: torch.dtype
    ring: torch.dtype


def significant(h: Tensor) -> Tensor:
    """The filters without an end that adds less than rounding. h: (G, L) -> (G, n), n >= 1.

    In every row the absolute values that are left out sum up to at most ``1e-12 eps`` of the
    largest tap, ``eps`` that of h's dtype.
    """
    parts = max(h.shape[1] >> 10, 1)  # taps that are left out together
    whole = h.shape[1] // parts * parts
    sizes = h.abs()
    # vector_norm has no such copy, and takes ten times as long
    sums = sizes[:, :whole].unflatten(1, (-1, parts)).sum(-1).double()
    if whole < h.shape[1]:
        sums = torch.cat([sums, sizes[:, whole:].sum(1, keepdim=True).double()], dim=1)
    least = sizes.amax(1, keepdim=True).double() * (_DECADES * torch.finfo(h.dtype).eps)
    matters = (sums.flip(1).cumsum(1) > least).any(0)  # newest taps last
    n = max(min(int(matters.sum()) * parts, h.shape[1]), 1)
    return h[:, :n].clone() if 2 * n <= h.shape[1] else h[:, :n]  # a view holds all of h


def choose(
    sizes: Sizes,
    plan: Plan | None,
    impl: str,
    device: torch.device,
    dtype: torch.dtype,
    kept: Kept,
    rollback: int | None,
    memory: str,
) -> tuple[Implementation, Plan]:
    """What runs, and the plan that it runs, which is made for it where none is given.

    dtype: of arithmetic. memory: of the plan that is made; "small" makes a
    given one small. Raises ValueError for a plan of another length, and RuntimeError with the
    reasons when the implementation cannot run.
    """
    if plan is not None and not isinstance(plan, Plan):
        raise TypeError(f"expected plan to be a Plan, got {type(plan).__name__}")
    implementation = resolve(impl, device, dtype, plan, kept.spectra, kept.ring)
    parts = candidates(impl, device, dtype, plan, kept.spectra, kept.ring)
    if plan is None:
        plan = make_plan(
            sizes.max_new_tokens,
            sizes.channels,
            batch_size=sizes.batch_size,
            layers=sizes.layers,
            groups=sizes.groups,
            dtype=dtype,
            device=device,
            filter_length=sizes.taps,
            impl="+".join(parts) or implementation.capabilities.name,
            spectra_dtype=kept.spectra,
            state_dtype=kept.ring,
            filters_dtype=kept.filters,
            memory=memory,
        )
    elif plan.length != sizes.max_new_tokens:
        raise ValueError(
            f"expected a plan of length max_new_tokens = {sizes.max_new_tokens}, got {plan.length}"
        )
    endless = plan.length is None
    plan = dataclasses.replace(
        plan, filter_length=sizes.taps, rollback=max(rollback or 0, 0) if endless else 0
    )
    if check_memory_choice(memory) == "small":
        plan = made_small(plan)
    check_rollback(rollback, plan)
    if kept.ring != dtype and plan.slack_from is not None:
        raise ValueError(
            f"expected state_dtype {dtype} with a plan that has slack, whose prompts' fill takes "
            f"what {kept.ring} would save, got {kept.ring} with {plan}"
        )
    check_plan(implementation, device, dtype, plan)
    if parts:
        workload = Workload(
            plan.slots, sizes.taps, sizes.channels, sizes.batch_size, sizes.layers, sizes.groups,
            dtype.itemsize, kept.spectra.itemsize, parts, kept.ring.itemsize,
            kept.filters.itemsize,
        )  # fmt: skip
        implementation = fastest_parts(plan, workload, DeviceInfo.of(device))
    return implementation, plan


def make_state(
    sizes: Sizes,
    plan: Plan,
    implementation: Implementation,
    filters: Sequence[Tensor],
    skip: Tensor | None,
    kept: Kept,
    rollback: int | None,
) -> StreamState:
    """A state at position 0. filters: per layer (G, L), of its dtype and on its device.

    Raises MemoryError before anything is allocated when the device cannot hold it.
    """
    dtype, device = filters[0].dtype, filters[0].device

    def layout_of(plan: Plan) -> Layout:
        return implementation.make_layout(sizes.channels, sizes.groups, dtype, plan)

    def nbytes(batch_size: int, plan: Plan) -> int:
        layout, narrow = layout_of(plan), kept.ring != dtype
        return implementation.scratch_nbytes(
            plan, layout, sizes.layers, batch_size, dtype, narrow
        ) + state_nbytes(
            plan,
            layout,
            layers=sizes.layers,
            batch_size=batch_size,
            filters=(sizes.groups, sizes.taps),
            itemsize=dtype.itemsize,
            filters_itemsize=kept.filters.itemsize,
            spectra_itemsize=kept.spectra.itemsize,
            ring_itemsize=kept.ring.itemsize,
            skip=skip is not None,
            rollback=rollback,
        )

    check_memory(nbytes, sizes.batch_size, plan, device)
    make_spectra, layout = implementation.make_spectra, layout_of(plan)
    return allocate(
        plan, layout, make_spectra, filters, sizes.batch_size, skip, kept.spectra,
        filters_dtype=kept.filters, ring_dtype=kept.ring, rollback=rollback,
    )  # fmt: skip
