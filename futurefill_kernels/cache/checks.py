"""Checks of what a caller hands to a cache; each error names what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ..checks import (
    check_filters,
    check_tensor,
    check_values,
    integer,
    integers,
    refuse_grad,
)
from ..plan import Plan


@dataclass(frozen=True)
class Sizes:
    """Sizes of a cache: layers, rows ``B``, ``D``, ``G``, ``N`` and taps of the longest filter."""

    layers: int
    batch_size: int
    channels: int
    groups: int
    max_new_tokens: int | None
    taps: int


def check_sizes(
    filters: Sequence[Tensor],
    batch_size: int,
    max_new_tokens: int | None,
    channels: int | None,
    skip: Tensor | None,
) -> Sizes:
    """Check filters, sizes and skip of a new cache. channels: default ``G``."""
    check_filters(filters)
    groups = filters[0].shape[0]
    channels = groups if channels is None else integer("channels", channels)
    batch_size = integer("batch_size", batch_size)
    if max_new_tokens is not None:
        max_new_tokens = integer("max_new_tokens", max_new_tokens)
    if channels < 1 or channels % groups:
        raise ValueError(f"expected channels to be a multiple of G = {groups}, got {channels}")
    for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"expected {name} >= 1, got {value}")
    layers, taps = len(filters), max(h.shape[1] for h in filters)
    if skip is not None:
        check_tensor("skip", skip)
    if skip is not None and skip.shape not in ((channels,), (layers, channels)):
        raise ValueError(
            f"expected skip (D,) = ({channels},) or (layers, D) = ({layers}, {channels}), "
            f"got {tuple(skip.shape)}"
        )
    refuse_grad(skip=skip)
    if skip is not None:
        check_values("skip", skip)
    return Sizes(layers, batch_size, channels, groups, max_new_tokens, taps)


def check_rollback(rollback: int | None, plan: Plan) -> None:
    """``rollback`` is None or in 0 .. N; with slack 0 or None; of an endless plan a number >= 0."""
    if plan.length is None and (rollback is None or rollback < 0):
        raise ValueError(
            f"expected rollback >= 0 with max_new_tokens None, whose inputs are not all kept, "
            f"got {rollback}"
        )
    if rollback is None or plan.length is None:
        return
    if not 0 <= rollback <= plan.length:
        raise ValueError(
            f"expected rollback in 0 .. max_new_tokens = {plan.length}, or None, got {rollback}"
        )
    if rollback and plan.slack_from is not None:
        raise ValueError(
            f"expected rollback 0 or None with a plan that has slack, got {rollback} with {plan}"
        )


def check_reach(row: int, position: int, oldest: int, target: int, rollback: int) -> None:
    """A row can be taken back that far. oldest: the first position it can go back to."""
    oldest = max(oldest, position - rollback)
    if target < oldest:
        raise ValueError(
            f"expected length >= {oldest} for row {row}, which is at {position}: with rollback = "
            f"{rollback} that is kept, got {target}"
        )


def check_fill_stream(stream: torch.cuda.Stream | None, device: torch.device) -> None:
    """A side stream for fills needs a CUDA device."""
    if stream is not None and device.type != "cuda":
        raise ValueError(f"fill_stream needs a CUDA device, the cache's is {device}")


def check_room(row: int, room: int, taken: int, max_new_tokens: int | None) -> None:
    """Check that a row has room for the positions that it is to take."""
    if taken > room:
        raise ValueError(
            f"expected at most {room} more positions in row {row} "
            f"(max_new_tokens = {max_new_tokens}), got {taken}"
        )


def check_input(
    name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Check shape, dtype, device and gradient of a token's or a prompt's tensor."""
    check_tensor(name, x)
    if x.shape != shape:
        dims = {2: "(B, D)", 3: "(B, D, P)"}[len(shape)]
        raise ValueError(f"expected {name} {dims} = {tuple(shape)}, got {tuple(x.shape)}")
    if x.dtype != dtype:
        raise TypeError(f"expected {name} of dtype {dtype}, got {x.dtype}")
    if x.device != device:
        raise ValueError(f"expected {name} on {device}, got {x.device}")
    if x.requires_grad:
        refuse_grad(**{name: x})


def checked_input(
    name: str, x: Tensor, shape: torch.Size, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The same tensor, contiguous; the whole check only where a part of it fails."""
    if (
        not isinstance(x, Tensor)
        or x.shape != shape
        or x.dtype is not dtype
        or x.device != device
        or x.requires_grad
    ):
        check_input(name, x, shape, dtype, device)
    return x if x.is_contiguous() else x.contiguous()


def check_apart(out: Tensor, **inputs: Tensor | None) -> None:
    """Check that ``out`` is an input's very memory, which is right, or none of it, and that what
    is written there are its values.
    """
    if is_dynamo_compiling():  # addresses are not traced
        return
    if out.is_neg():
        raise ValueError("expected out without a negation outstanding, got a negated view")
    y = out.data_ptr()
    for name, x in inputs.items():
        if x is None or x is out:
            continue
        at = x.data_ptr()
        if at != y and y < at + x.nbytes and at < y + out.nbytes:
            raise ValueError(f"expected out to be {name} itself or apart from it, got an overlap")


def check_prefill(
    u: Tensor,
    pre: Tensor | None,
    post: Tensor | None,
    sizes: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Check u and gates of many tokens: (R, D, P) with P >= 1. sizes: (R, D)."""
    check_tensor("u", u)
    if u.ndim != 3:
        raise ValueError(f"expected u (B, D, P), got {tuple(u.shape)}")
    if u.shape[2] < 1:
        raise ValueError(f"expected u (B, D, P) with P >= 1, got {tuple(u.shape)}")
    for name, x in (("u", u), ("pre", pre), ("post", post)):
        if x is not None:
            check_input(name, x, (*sizes, u.shape[2]), dtype, device)


def crop_lengths(length: int | Sequence[int] | Tensor, batch_size: int) -> list[int]:
    """A length for every row from one for all, or (B,)."""
    if isinstance(length, int) or (isinstance(length, Tensor) and length.ndim == 0):
        lengths = [integer("length", length)] * batch_size
    else:
        lengths = integers("length", length)
    if len(lengths) != batch_size or min(lengths) < 0:
        raise ValueError(
            f"expected length >= 0 of all rows, or (B,) = ({batch_size},) of them, got {length}"
        )
    return lengths
