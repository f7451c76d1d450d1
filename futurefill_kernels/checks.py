"""Argument checks; each error names what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

Rows = Sequence[int] | Tensor

#: Of a ring that holds less than arithmetic has.
HALVES = (torch.bfloat16, torch.float16)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def dtype_names(dtypes: tuple[torch.dtype, ...]) -> str:
    """Readable list of dtypes."""
    return ", ".join(str(d).removeprefix("torch.") for d in dtypes)


def integer(name: str, value: Any) -> int:
    """A whole number as an int; TypeError for anything else, bools among it."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return index(value)
    except TypeError:
        raise TypeError(f"expected {name} to be an integer, got {value!r}") from None


def integers(name: str, values: Any) -> list[int]:
    """Whole numbers as a list. values: a sequence of them, or a tensor of an integer dtype."""
    given = values.tolist() if isinstance(values, Tensor) else values
    try:
        if bool in map(type, given):
            raise TypeError
        return list(map(index, given))
    except TypeError:
        raise TypeError(f"expected {name} to be a sequence of integers, got {values!r}") from None


def check_tensor(name: str, x: Any) -> None:
    """TypeError unless it is a tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"expected {name} to be a tensor, got {type(x).__name__}")


def check_module(model: Any) -> None:
    """TypeError unless a model is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected model to be a module, got {type(model).__name__}")


def check_values(name: str, x: Tensor) -> None:
    """ValueError for a tensor on meta, which has none."""
    if x.device.type == "meta":
        raise ValueError(f"expected {name} with values, got one on meta")


def refuse_grad(**tensors: Tensor | None) -> None:
    """Raise when autograd would expect a gradient: these ops have none."""
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise ValueError(
                f"{name} requires grad, but futurefill_kernels ops are autograd-free: "
                f"use torch.no_grad() or pass {name}.detach()"
            )


def check_dtype(dtype: torch.dtype, name: str = "dtype") -> torch.dtype:
    """Raise TypeError unless the dtype is one of the four supported ones."""
    if dtype not in DTYPES:
        raise TypeError(f"expected {name} to be one of {dtype_names(DTYPES)}, got {dtype!r}")
    return dtype


def state_dtype(dtype: torch.dtype, wanted: torch.dtype | None = None) -> torch.dtype:
    """The dtype of state and arithmetic for inputs of a dtype: float32, or float64 for float64.

    wanted: float64 where it shall be that for other inputs too, or one of `HALVES`, which is the
    ring's alone and not for float64 inputs. TypeError for any other one.
    """
    usual = torch.float64 if dtype == torch.float64 else torch.float32
    valid = (torch.float64,) if usual == torch.float64 else (usual, torch.float64, *HALVES)
    if wanted is not None and wanted not in valid:
        raise TypeError(
            f"expected state_dtype to be None, {dtype_names(valid)} for inputs of {dtype}, "
            f"got {wanted!r}"
        )
    return usual if wanted is None or wanted in HALVES else wanted


def ring_dtype(dtype: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """The dtype of a state's ring for inputs of a dtype. wanted: as of `state_dtype`."""
    arithmetic = state_dtype(dtype, wanted)
    return wanted if wanted is not None and wanted in HALVES else arithmetic


def check_spectra_dtype(spectra_dtype: torch.dtype | None, dtype: torch.dtype) -> torch.dtype:
    """The dtype of filter spectra; TypeError unless the state's or bfloat16.

    dtype: of the inputs.
    """
    state = state_dtype(dtype)
    if spectra_dtype not in (None, state, torch.bfloat16):
        raise TypeError(
            f"expected spectra_dtype to be None, {dtype_names((state, torch.bfloat16))}, "
            f"got {spectra_dtype!r}"
        )
    return state if spectra_dtype is None else spectra_dtype


def check_filters_dtype(filters_dtype: torch.dtype | None, state: torch.dtype) -> torch.dtype:
    """The dtype that taps are kept in; TypeError unless the state's or bfloat16."""
    if filters_dtype not in (None, state, torch.bfloat16):
        raise TypeError(
            f"expected filters_dtype to be None, {dtype_names((state, torch.bfloat16))}, "
            f"got {filters_dtype!r}"
        )
    return state if filters_dtype is None else filters_dtype


def check_conv(u: Tensor, h: Tensor, skip: Tensor | None) -> None:
    """Check the arguments of a parallel convolution."""
    for name, x in (("u", u), ("h", h), *([("skip", skip)] if skip is not None else [])):
        check_tensor(name, x)
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f"expected u (B, D, T) with no empty dimension, got {tuple(u.shape)}")
    if h.ndim != 2 or 0 in h.shape:
        raise ValueError(f"expected h (D, L) or (G, L), not empty, got {tuple(h.shape)}")
    check_dtype(u.dtype, "the dtype of u")
    check_dtype(h.dtype, "the dtype of h")
    channels = u.shape[1]
    if channels % h.shape[0]:
        raise ValueError(
            f"expected the filter rows of h to divide D = {channels}, got {h.shape[0]} rows"
        )
    if skip is not None and skip.shape != (channels,):
        raise ValueError(f"expected skip (D,) = ({channels},), got {tuple(skip.shape)}")
    for name, tensor in (("h", h), ("skip", skip)):
        if tensor is not None and tensor.device != u.device:
            raise ValueError(f"expected {name} on {u.device} like u, got {tensor.device}")


def filter_list(filters: Any) -> list[Any]:
    """A tensor or a sequence of them as a list; TypeError for anything else."""
    if isinstance(filters, Tensor):
        return [filters]
    try:
        return list(filters)
    except TypeError:
        raise TypeError(
            f"expected filters to be a tensor or a sequence of tensors, "
            f"got {type(filters).__name__}"
        ) from None


def check_filters(filters: Sequence[Tensor]) -> None:
    """Check the filters of a cache: (G, L) each, finite, without gradients."""
    if not filters:
        raise ValueError("expected filters to be a tensor or a non-empty sequence of tensors")
    for layer, h in enumerate(filters):
        name = f"filters[{layer}]"
        check_tensor(name, h)
        if h.ndim != 2 or 0 in h.shape:
            raise ValueError(f"expected {name} (G, L), not empty, got {tuple(h.shape)}")
        if h.shape[0] != filters[0].shape[0]:
            raise ValueError(
                f"expected {name} with G = {filters[0].shape[0]} rows like layer 0, "
                f"got {h.shape[0]}"
            )
        check_dtype(h.dtype, f"the dtype of {name}")
        refuse_grad(**{name: h})
        check_values(name, h)
        # a sum is the faster look; one that overflows says nothing
        if not bool(h.sum().isfinite()) and not bool(torch.isfinite(h).all()):
            raise ValueError(f"expected {name} to be finite, got NaN or infinity")


def row_indices(
    rows: Rows, batch_size: int, *, padding: bool = False, unique: bool = True
) -> list[int]:
    """Rows of the batch as a list; -1 only where padding is allowed."""
    found = integers("rows", rows)
    low = -1 if padding else 0
    if not found or min(found) < low or max(found) >= batch_size:
        raise ValueError(f"expected rows in {low} .. {batch_size - 1}, got {found}")
    if unique:
        real = [r for r in found if r >= 0]
        if len(set(real)) != len(real):
            raise ValueError(f"expected each row once, got {found}")
    return found


def valid_lengths(lengths: Tensor | Sequence[int] | None, rows: int, width: int) -> list[int]:
    """Valid positions of each right-padded row as a list."""
    if lengths is None:
        return [width] * rows
    found = integers("lengths", lengths)
    if len(found) != rows or any(not 1 <= n <= width for n in found):
        raise ValueError(f"expected lengths ({rows},) in 1 .. {width}, got {found}")
    return found
