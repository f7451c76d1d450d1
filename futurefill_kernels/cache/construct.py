"""What a new cache is made of: an implementation, a plan made for it, and the state's tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ..implementations.base import Implementation
from ..implementations.select import check_plan, resolve
from ..plan import Plan
from ..planning.make_plan import make_plan
from ..planning.memory import check_memory
from ..state.layout import Layout
from ..state.tensors import StreamState, allocate, state_nbytes
from .checks import Sizes


def choose(
    sizes: Sizes,
    plan: Plan | None,
    impl: str,
    device: torch.device,
    dtype: torch.dtype,
    spectra_dtype: torch.dtype | None,
) -> tuple[Implementation, Plan]:
    """What runs, and the plan that it runs, which is made for it where none is given.

    dtype: of the inputs. Raises ValueError for a plan of another length, and RuntimeError with the
    reasons when the implementation cannot run.
    """
    if plan is not None and not isinstance(plan, Plan):
        raise TypeError(f"expected plan to be a Plan, got {type(plan).__name__}")
    implementation = resolve(impl, device, dtype, plan, spectra_dtype)
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
            impl=implementation.capabilities.name,
            spectra_dtype=spectra_dtype,
        )
    elif plan.length != sizes.max_new_tokens:
        raise ValueError(
            f"expected a plan of length max_new_tokens = {sizes.max_new_tokens}, got {plan.length}"
        )
    plan = dataclasses.replace(plan, filter_length=sizes.taps)
    check_plan(implementation, device, dtype, plan)
    return implementation, plan


def make_state(
    sizes: Sizes,
    plan: Plan,
    implementation: Implementation,
    filters: Sequence[Tensor],
    skip: Tensor | None,
    spectra_dtype: torch.dtype,
    rollback: int | None,
) -> StreamState:
    """A state at position 0. filters: per layer (G, L), of its dtype and on its device.

    Raises MemoryError before anything is allocated when the device cannot hold it.
    """
    dtype, device = filters[0].dtype, filters[0].device

    def layout_of(plan: Plan) -> Layout:
        return implementation.make_layout(sizes.channels, sizes.groups, dtype, plan)

    def nbytes(batch_size: int, plan: Plan) -> int:
        return state_nbytes(
            plan,
            layout_of(plan),
            layers=sizes.layers,
            batch_size=batch_size,
            itemsize=dtype.itemsize,
            spectra_itemsize=spectra_dtype.itemsize,
            rollback=rollback,
        )

    check_memory(nbytes, sizes.batch_size, plan, device)
    make_spectra, layout = implementation.make_spectra, layout_of(plan)
    return allocate(
        plan, layout, make_spectra, filters, sizes.batch_size, skip, spectra_dtype,
        rollback=rollback,
    )  # fmt: skip
