"""Checks that the ops of impl="triton" share."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ...checks import dtype_names
from ...planning.capabilities import CAPABILITIES

#: dtypes of the state's filter spectra beside float32
SPECTRA_DTYPES = CAPABILITIES["triton"].spectra_dtypes
IO_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Whether Triton's interpreter is on, which also takes tensors on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def expect(ok: bool, name: str, expected: str, got: object) -> None:
    """Raise ValueError unless ``ok``."""
    if not ok:
        raise ValueError(f"expected {name} {expected}, got {got}")


def check_state(positions: Tensor, rows: Tensor | None, **state: Tensor | None) -> None:
    """Device, dtype and strides of a state's tensors; layouts as in gpu_layout."""
    for label, x in state.items():
        if x is None:
            continue
        expect(x.device == positions.device, label, f"on {positions.device}", x.device)
        dtypes = (torch.float32, *(SPECTRA_DTYPES if label == "spectra" else ()))
        expect(x.dtype in dtypes, label, f"of dtype {dtype_names(dtypes)}", x.dtype)
        expect(x.is_contiguous(), label, "contiguous", f"strides {x.stride()}")
        expect(x.shape[-1] % 32 == 0, label, "with channels padded to 32", tuple(x.shape))
    check_indices(positions.device, positions=positions, rows=rows)
    check_device(positions.device)


def check_indices(device: torch.device, **indices: Tensor | None) -> None:
    """Contiguous vectors of int64."""
    for label, x in indices.items():
        if x is not None:
            expect(x.dtype == torch.int64, label, "of dtype int64", x.dtype)
            expect(x.ndim == 1 and x.is_contiguous(), label, "(R,) contiguous", tuple(x.shape))
            expect(x.device == device, label, f"on {device}", x.device)


def check_device(device: torch.device) -> None:
    """Raise RuntimeError where the kernels cannot run."""
    if device.type != "cuda" and not interpreted():
        raise RuntimeError(
            f"triton kernels run on a CUDA device, not on {device} "
            "(TRITON_INTERPRET=1 interprets them on the CPU)"
        )
