"""Which implementation runs: the one asked for, or the first with no reason against it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..plan import Level, Plan
from ..planning import order
from ..planning.device import DeviceInfo
from ..state.tensors import Layout, Step, StreamState
from . import cpu, cuda, reference, triton
from .gpu_prompt_by_fft import Inputs, Outputs


class Implementation(Protocol):
    """What a module must offer to implement the two state operations."""

    name: str
    fuses_fill: bool  # whether `step` also does the fills that are due

    def unavailable(self, device: torch.device, dtype: torch.dtype, plan: Plan | None) -> list[str]:
        """Reasons why it cannot run; empty when it can."""
        ...

    def make_layout(self, channels: int, groups: int, dtype: torch.dtype, plan: Plan) -> Layout:
        """How channels and time are stored."""
        ...

    def make_spectra(self, h: Tensor, plan: Plan, layout: Layout, dtype: torch.dtype) -> Tensor:
        """One layer's prepared filters from taps h (layout.groups, L)."""
        ...

    def make_step(self, state: StreamState) -> Step:
        """The function for one token of one layer; see reference.make_step."""
        ...

    def fill(self, state: StreamState, level: Level, rows: Tensor | None) -> None:
        """One level's future fill of all layers; see reference.fill."""
        ...


class SlicedImplementation(Implementation, Protocol):
    """One that also takes plans with slack."""

    def fill_slices(
        self, state: StreamState, level: Level, rows: Tensor | None, begin: int, end: int
    ) -> None:
        """Part of a fill of a level with slack; see reference.fill_slices."""
        ...


class PromptImplementation(Implementation, Protocol):
    """One with kernels of its own around the transforms of a prompt."""

    def prompt_kernels(self) -> tuple[Inputs, Outputs]:
        """The two kernels; see fft_prefill."""
        ...


IMPLEMENTATIONS: dict[str, Implementation] = {
    "cpu": cpu,
    "cuda": cuda,
    "triton": triton,
    "reference": reference,
}


def reasons_against(
    device: torch.device,
    dtype: torch.dtype,
    plan: Plan | None = None,
    spectra_dtype: torch.dtype | None = None,
) -> dict[str, list[str]]:
    """Per implementation, in the order that "auto" tries them, why it cannot run; an empty list
    means that it can.
    """
    return {
        name: _reasons(IMPLEMENTATIONS[name], device, dtype, plan, spectra_dtype)
        for name in _preferred(device)
    }


def _preferred(device: torch.device) -> list[str]:
    if device.type != "cuda" or not torch.cuda.is_available():
        return list(IMPLEMENTATIONS)
    first = order.order(DeviceInfo.of(device))
    return [*first, *(name for name in IMPLEMENTATIONS if name not in first)]


def _reasons(
    implementation: Implementation,
    device: torch.device,
    dtype: torch.dtype,
    plan: Plan | None,
    spectra_dtype: torch.dtype | None,
) -> list[str]:
    reasons = implementation.unavailable(device, dtype, plan)
    if plan is not None and plan.slack_levels and not hasattr(implementation, "fill_slices"):
        reasons = [*reasons, "does not spread fills over steps (Plan.slack_from)"]
    own = (None, torch.float64 if dtype == torch.float64 else torch.float32)
    # only implementations that store spectra in other dtypes than the state's name them
    if spectra_dtype not in (*own, *getattr(implementation, "spectra_dtypes", ())):
        reasons = [*reasons, f"keeps no filter spectra in {str(spectra_dtype).split('.')[-1]}"]
    return reasons


def resolve(
    impl: str,
    device: torch.device,
    dtype: torch.dtype,
    plan: Plan | None = None,
    spectra_dtype: torch.dtype | None = None,
) -> Implementation:
    """The implementation to use.

    impl: "auto" or a name; a named one never falls back. spectra_dtype: of filter spectra, default
    the state's. Raises ValueError for an unknown name, and RuntimeError with the reasons when the
    named one, or for "auto" each of them, cannot run.
    """
    if impl != "auto" and impl not in IMPLEMENTATIONS:
        valid = ", ".join(repr(name) for name in ("auto", *IMPLEMENTATIONS))
        raise ValueError(f"unknown impl {impl!r}; expected one of {valid}")
    found = []
    for name in _preferred(device) if impl == "auto" else (impl,):
        reasons = _reasons(IMPLEMENTATIONS[name], device, dtype, plan, spectra_dtype)
        if not reasons:
            return IMPLEMENTATIONS[name]
        found.append("; ".join(reasons))
        if impl == "auto":
            found[-1] = f"{name} {found[-1]}"
    raise RuntimeError(f"impl={impl!r} cannot run on {device}: " + "; ".join(found))
