"""Implementations by name, second forms of their fills included, and states that they work on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from futurefill_kernels.implementations.base import Implementation
from futurefill_kernels.implementations.cuda_early import TILES
from futurefill_kernels.implementations.mixed import Mixed
from futurefill_kernels.implementations.select import (
    IMPLEMENTATIONS,
    LEVEL_FILLS,
    ON_GPUS,
    cannot_run,
)
from futurefill_kernels.plan import Plan
from futurefill_kernels.planning.capabilities import VARIANTS
from futurefill_kernels.state.spectra import arranged_spectra
from futurefill_kernels.state.tensors import StreamState, allocate

#: ``--impl``: all that run on the device, one after the other.
EACH = "each"


def names_of(impl: str, device: torch.device, dtype: torch.dtype = torch.float32) -> list[str]:
    """The names that ``--impl`` stands for: itself, or with "each" all that run there; on a GPU
    without ``reference``, which is no kernel.
    """
    if impl != EACH:
        return [impl]
    running = [name for name, reasons in cannot_run(device, dtype).items() if not reasons]
    return [name for name in running if device.type != "cuda" or name in ON_GPUS]


def fills_of(impl: str, device: torch.device, block: int) -> list[str]:
    """Names of fills of a block: the same and their second forms, where these differ there."""
    names = names_of(impl, device)
    forms = [form for form, name in VARIANTS.items() if name in names and block in TILES]
    return names + forms


def combined(steps: str, fills: Sequence[str]) -> Implementation:
    """One that does the steps, and each level's fills by a name of ``fills_of``."""
    names = {VARIANTS.get(name, name) for name in (steps, *fills)}
    for name in names - set(IMPLEMENTATIONS):
        raise ValueError(
            f"unknown impl {name!r}; expected {EACH!r} or one of {', '.join(IMPLEMENTATIONS)}"
        )
    whole = IMPLEMENTATIONS[VARIANTS.get(steps, steps)]
    if all(name == steps for name in fills) and steps not in VARIANTS:
        return whole
    return Mixed(whole, whole, tuple(LEVEL_FILLS[name] for name in fills))


def make_state(
    implementation: Implementation,
    fills: Sequence[str],
    plan: Plan,
    h: Tensor,
    layers: int,
    rows: int,
) -> StreamState:
    """A state at position 0 whose layers all have filters h (D, L) float32, each its own copy.

    fills: for each level the name of what fills it, which reads spectra in an order of its own.
    Those of GPUs are made once for all layers.
    """
    layout = implementation.make_layout(h.shape[0], h.shape[0], h.dtype, plan)
    arrangements = [LEVEL_FILLS[name].arrange_level for name in fills if name in LEVEL_FILLS]
    if len(arrangements) < len(fills):
        spectra = implementation.make_spectra(h, plan, layout, h.dtype).to(h.device)
    else:
        spectra = arranged_spectra(h, plan, layout, h.dtype, arrangements)
    return allocate(plan, layout, lambda *_: spectra, [h] * layers, rows, None)


def fill_call(implementation: Implementation, state: StreamState) -> Callable[[], None]:
    """The fill of a plan's only level, where the state stands."""
    (level,) = state.plan.levels
    return lambda: implementation.fill(state, level, None)
