"""What each implementation can do: one record, read by planner, select, graphs and kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Counted:
    """Counts of an implementation's compiled kernels (docs/kernels.md), B=1.

    history_traffic, fill_traffic: 32-byte sectors over compulsory bytes, in the middle of a block
    and the most of the table's rows up to a block of 1024. fill_instructions: per channel and
    position of the block, the most of those rows.
    """

    history_traffic: float
    fill_traffic: float
    fill_instructions: float


@dataclass(frozen=True)
class Capabilities:
    """One implementation.

    name: as in ``impl=``. kind: of the devices it is made for, ``"cpu"``, ``"cuda"`` or ``"any"``.
    largest_fused: largest block of a fill that is one launch and one pass over memory; 0 where
    fills are no launches. largest_direct: largest block of a fill that is a direct product with the
    taps. spectra_dtypes: of filter spectra, besides the state's. capturable:
    whether a step reads and advances positions on the device, as a CUDA graph needs.
    fuses_fill: whether a step also does the fills that are due. counted: costs of its kernels.
    """

    name: str
    kind: str
    largest_fused: int = 0
    largest_direct: int = 0
    spectra_dtypes: tuple[torch.dtype, ...] = ()
    capturable: bool = False
    fuses_fill: bool = False
    counted: Counted | None = None


#: In the order that "auto" tries them; on a GPU planning.order has its own.
CAPABILITIES = {
    record.name: record
    for record in (
        # on Zen 2, 1.0 ns per token and channel at 32, where the transform of 64 takes 1.2
        # (python -m bench fill)
        Capabilities("cpu", "cpu", largest_direct=32, fuses_fill=True),
        Capabilities(
            "cuda", "cuda", largest_fused=8192, capturable=True, counted=Counted(1.015, 1.019, 117)
        ),
        Capabilities(
            "triton",
            "cuda",
            largest_fused=4096,
            spectra_dtypes=(torch.bfloat16,),
            capturable=True,
            counted=Counted(1.015, 1.094, 117),
        ),
        Capabilities("reference", "any"),
    )
}


def on_gpus() -> tuple[str, ...]:
    """Names of the implementations made for GPUs."""
    return tuple(name for name, c in CAPABILITIES.items() if c.kind == "cuda")


def largest_fused(impl: str) -> int:
    """Largest block that is one launch on a GPU; for other names, in every GPU implementation."""
    found = CAPABILITIES[impl].largest_fused if impl in on_gpus() else 0
    return found or min(CAPABILITIES[name].largest_fused for name in on_gpus())
