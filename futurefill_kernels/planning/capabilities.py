"""What each implementation can do: one record, read by planner, select, graphs and kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..checks import HALVES


@dataclass(frozen=True)
class Capabilities:
    """One implementation.

    name: as in ``impl=``. kind: of the devices it is made for, ``"cpu"``, ``"cuda"`` or ``"any"``.
    largest_fused: largest block of a fill that is one launch and one pass over memory; 0 where
    fills are no launches. largest_passes: largest block in passes of its own, ``passes`` launches.
    index_limit: points of a transform times padded channels, from which it has neither, and
    torch.fft does the fill.
    largest_direct: largest block of a fill that is a direct product with the taps. spectra_dtypes:
    of filter spectra, ring_dtypes: of the ring, besides the state's.
    capturable: whether a step reads and advances positions on the device, as a CUDA graph needs.
    fuses_fill: whether a step also does the fills that are due.
    """

    name: str
    kind: str
    largest_fused: int = 0
    largest_passes: int = 0
    passes: int = 0
    index_limit: int | None = None
    largest_direct: int = 0
    spectra_dtypes: tuple[torch.dtype, ...] = ()
    ring_dtypes: tuple[torch.dtype, ...] = ()
    capturable: bool = False
    fuses_fill: bool = False

    def has_kernels(self, transform: int, lanes: int) -> bool:
        """Whether it fills blocks of so many points and padded channels by kernels of its own."""
        fits = self.index_limit is None or transform * lanes < self.index_limit
        return transform <= self.largest_passes and fits


#: In the order that "auto" tries them; on a GPU planning.gpu_choice has its own.
CAPABILITIES = {
    record.name: record
    for record in (
        # on Zen 2, 1.0 ns per token and channel at 32, where the transform of 64 takes 1.2
        # (python -m bench fill)
        Capabilities("cpu", "cpu", largest_direct=32, fuses_fill=True, ring_dtypes=HALVES),
        Capabilities(
            "cuda",
            "cuda",
            largest_fused=8192,
            largest_passes=1 << 18,
            passes=3,
            ring_dtypes=HALVES,
            capturable=True,
        ),
        Capabilities(
            "triton",
            "cuda",
            largest_fused=4096,
            largest_passes=1 << 18,
            passes=3,
            index_limit=1 << 30,
            spectra_dtypes=(torch.bfloat16,),
            ring_dtypes=HALVES,
            capturable=True,
        ),
        Capabilities("reference", "any", ring_dtypes=HALVES),
    )
}

#: Fills through torch.fft, which every level of a stream on a GPU can have.
FFT = Capabilities("fft", "cuda", spectra_dtypes=(torch.bfloat16,), ring_dtypes=HALVES)

#: Second forms of an implementation's fills, which take part where they were timed -> its name.
VARIANTS = {"cuda_early": "cuda"}


def of(name: str) -> Capabilities:
    """The record of an implementation, of the one that it is a form of, or of ``"fft"``."""
    return FFT if name == FFT.name else CAPABILITIES[VARIANTS.get(name, name)]


def on_gpus() -> tuple[str, ...]:
    """Names of the implementations made for GPUs."""
    return tuple(name for name, c in CAPABILITIES.items() if c.kind == "cuda")


def fills_on_gpus() -> tuple[str, ...]:
    """Names of what may fill a level there."""
    return (*on_gpus(), FFT.name)


def planned_for(impl: str, spectra_dtype: torch.dtype | None) -> tuple[str, ...]:
    """What may fill a level of a plan for ``impl`` on a GPU: an implementation, those that are
    joined by "+", or for any other name all that keep such filter spectra.
    """
    if impl in on_gpus():
        return (impl,)
    own = (None, torch.float32, torch.float64)
    able = [name for name in fills_on_gpus() if spectra_dtype in (*own, *of(name).spectra_dtypes)]
    named = tuple(name for name in able if "+" in impl and name in impl.split("+"))
    return named if set(named) & set(on_gpus()) else tuple(able)
