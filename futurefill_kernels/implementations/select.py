"""Which implementation runs: the one asked for, or the first with no reason against it."""

from __future__ import annotations

import torch

from ..checks import state_dtype
from ..plan import Plan
from ..planning import gpu_choice
from ..planning.device import DeviceInfo
from ..planning.workload import Workload
from . import cpu, cuda, cuda_early, fft_fill, reference, triton
from .base import Implementation
from .mixed import GpuFills, Mixed

IMPLEMENTATIONS: dict[str, Implementation] = {
    "cpu": cpu,
    "cuda": cuda,
    "triton": triton,
    "reference": reference,
}

ON_GPUS: dict[str, Implementation] = {"cuda": cuda, "triton": triton}

#: What fills a level, by the names of planning.gpu_choice.
LEVEL_FILLS: dict[str, GpuFills] = {
    "cuda": cuda, "triton": triton, "cuda_early": cuda_early, "fft": fft_fill
}  # fmt: skip

#: Fills of no implementation of their own name.
_FORMS = frozenset(LEVEL_FILLS) - frozenset(ON_GPUS)


def cannot_run(
    device: torch.device,
    dtype: torch.dtype,
    plan: Plan | None = None,
    spectra_dtype: torch.dtype | None = None,
    ring_dtype: torch.dtype | None = None,
) -> dict[str, list[str]]:
    """Per implementation, in the order that "auto" tries them, why it cannot run; an empty list
    means that it can.
    """
    return {
        name: _reasons(IMPLEMENTATIONS[name], device, dtype, plan, spectra_dtype, ring_dtype)
        for name in _preferred(device)
    }


def _preferred(device: torch.device) -> list[str]:
    if device.type != "cuda" or not torch.cuda.is_available():
        return list(IMPLEMENTATIONS)
    first = gpu_choice.order(DeviceInfo.of(device))
    return [*first, *(name for name in IMPLEMENTATIONS if name not in first)]


def _reasons(
    implementation: Implementation,
    device: torch.device,
    dtype: torch.dtype,
    plan: Plan | None,
    spectra_dtype: torch.dtype | None,
    ring_dtype: torch.dtype | None,
) -> list[str]:
    reasons = implementation.cannot_run(device, dtype, plan)
    own = (None, state_dtype(dtype))
    capabilities = implementation.capabilities
    if spectra_dtype not in (*own, *capabilities.spectra_dtypes):
        reasons = [*reasons, f"keeps no filter spectra in {str(spectra_dtype).split('.')[-1]}"]
    if ring_dtype not in (*own, *capabilities.ring_dtypes):
        reasons = [*reasons, f"keeps no state in {str(ring_dtype).split('.')[-1]}"]
    return reasons


def check_plan(
    implementation: Implementation, device: torch.device, dtype: torch.dtype, plan: Plan
) -> None:
    """RuntimeError with the reasons when an implementation that was chosen cannot run a plan."""
    reasons = implementation.cannot_run(device, dtype, plan)
    if reasons:
        name = implementation.capabilities.name
        raise RuntimeError(f"impl={name!r} cannot run on {device}: " + "; ".join(reasons))


def resolve(
    impl: str,
    device: torch.device,
    dtype: torch.dtype,
    plan: Plan | None = None,
    spectra_dtype: torch.dtype | None = None,
    ring_dtype: torch.dtype | None = None,
) -> Implementation:
    """The implementation to use.

    impl: "auto", a name, names for GPUs joined by "+", of which the one with the fastest steps is
    returned, or what `mixed.exact_name` gives; all but "auto" never fall back. plan: what it has to
    run; None where the plan is made for the implementation, and checked with ``check_plan``.
    spectra_dtype: of filter spectra, ring_dtype: of the ring, default the state's. Raises
    ValueError for an unknown name, and RuntimeError with the reasons when a named one, or for
    "auto" each of them, cannot run.
    """
    asked = (device, dtype, plan, spectra_dtype, ring_dtype)
    if "+" in impl:
        several = {name: resolve(name, *asked) for name in impl.split("+") if name not in _FORMS}
        if several:
            return next(several[name] for name in _preferred(device) if name in several)
    named = dict(IMPLEMENTATIONS)
    if mixed := _mixed(impl):
        named[impl] = mixed
    if impl != "auto" and impl not in named:
        valid = ", ".join(repr(name) for name in ("auto", *IMPLEMENTATIONS))
        raise ValueError(f"unknown impl {impl!r}; expected one of {valid}")
    found = []
    for name in _preferred(device) if impl == "auto" else (impl,):
        reasons = _reasons(named[name], *asked)
        if not reasons:
            return named[name]
        found.append("; ".join(reasons))
        if impl == "auto":
            found[-1] = f"{name} {found[-1]}"
    raise RuntimeError(f"impl={impl!r} cannot run on {device}: " + "; ".join(found))


def _mixed(impl: str) -> Mixed | None:
    """Of an exact name, None for any other."""
    try:
        steps, prompts, fills = impl.split(";")
        shortest, *longer = prompts.split(",")
        return Mixed(
            IMPLEMENTATIONS[steps], IMPLEMENTATIONS[shortest],
            tuple(LEVEL_FILLS[name] for name in fills.split(",")),
            tuple(
                (int(positions), IMPLEMENTATIONS[name])
                for positions, name in (one.split(":") for one in longer)
            ),
        )  # fmt: skip
    except (ValueError, KeyError):
        return None


def on_this_gpu(
    device: torch.device,
    dtype: torch.dtype,
    plan: Plan | None = None,
    spectra_dtype: torch.dtype | None = None,
    ring_dtype: torch.dtype | None = None,
) -> tuple[str, ...]:
    """The implementations for GPUs that can run there; arguments as of `resolve`."""
    reasons = cannot_run(device, dtype, plan, spectra_dtype, ring_dtype)
    return tuple(name for name in ON_GPUS if not reasons[name])


def candidates(
    impl: str,
    device: torch.device,
    dtype: torch.dtype,
    plan: Plan | None = None,
    spectra_dtype: torch.dtype | None = None,
    ring_dtype: torch.dtype | None = None,
) -> tuple[str, ...]:
    """What the parts of a stream on a GPU are chosen from: for "auto" all implementations that can
    run and torch.fft, else what is joined by "+"; none for a single name. Arguments as of
    `resolve`.
    """
    if impl == "auto":
        found = on_this_gpu(device, dtype, plan, spectra_dtype, ring_dtype)
        return (*found, fft_fill.capabilities.name) if found else ()
    names = [*ON_GPUS, fft_fill.capabilities.name]
    return tuple(name for name in names if "+" in impl and name in impl.split("+"))


def fastest_parts(plan: Plan, workload: Workload, info: DeviceInfo) -> Implementation:
    """For steps, prompts and each level of a plan the fastest of ``workload.impls``."""
    steps = gpu_choice.of_steps(plan, workload, info)
    names = [name for name in ON_GPUS if name in workload.impls]
    (_, prompts), *longer = gpu_choice.of_prompts(names, info)
    fills = gpu_choice.of_levels(plan, workload, info)
    if {prompts, *fills} == {steps} and not longer:
        return ON_GPUS[steps]
    return Mixed(
        ON_GPUS[steps], ON_GPUS[prompts], tuple(LEVEL_FILLS[name] for name in fills),
        tuple((positions, ON_GPUS[name]) for positions, name in longer),
    )  # fmt: skip
