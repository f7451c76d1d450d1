"""Bytes that a workload holds under a plan, and whether a device has them."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable

import torch

from ..level import transform_length
from ..plan import Plan
from ..state.layout import Layout
from ..state.tensors import state_nbytes
from .device import DeviceInfo
from .processor import free_bytes
from .workload import Workload

#: Share of a GPU's memory that a state may take; the rest is the model's and the driver's.
MEMORY_SHARE = 0.9
#: Bytes of a CPU for which the system is asked what is free: that takes 30 us.
ASKED_FROM = 16 << 20


def usable_bytes(info: DeviceInfo) -> int:
    """Bytes of a GPU's memory that a state may take."""
    return int(MEMORY_SHARE * info.memory_bytes)


def needed_nbytes(workload: Workload, plan: Plan) -> int:
    """Bytes on a GPU: the state, the filters and what is prepared of them."""
    layout = Layout.padded(workload.channels, workload.groups, plan.slots)
    return state_nbytes(
        plan, layout, layers=workload.layers, batch_size=workload.batch_size,
        filters=(workload.groups, workload.filter_length), itemsize=workload.itemsize,
        filters_itemsize=workload.filters_itemsize, spectra_itemsize=workload.spectra_itemsize,
        ring_itemsize=workload.ring_itemsize,
    )  # fmt: skip


def first_nbytes(workload: Workload, block: int) -> int:
    """Bytes that ``T_0 = block`` takes, its taps and open blocks, without padding."""
    opened = workload.all_channels if workload.narrow else 0
    return workload.itemsize * (workload.layers * workload.groups + opened) * block


def spectra_nbytes(workload: Workload, rows: int) -> int:
    """Bytes of complex rows of filter spectra, ``Plan.spectra_rows``, without padding."""
    return 2 * workload.spectra_itemsize * workload.layers * workload.groups * rows


def level_nbytes(workload: Workload, block: int, radix: int) -> int:
    """Bytes of a level's filter spectra and kept input spectra, without padding."""
    n, spectra = transform_length(block), workload.n_spectra(block, radix)
    return spectra_nbytes(workload, n * spectra) + kept_nbytes(workload, block, radix)


def kept_nbytes(workload: Workload, block: int, radix: int) -> int:
    """Bytes of a level's kept input spectra, without padding."""
    kept = max(workload.n_spectra(block, radix) - 1, 0)
    return 2 * workload.itemsize * workload.all_channels * transform_length(block) * kept


def check_memory(
    nbytes: Callable[[int, Plan], int], batch_size: int, plan: Plan, device: torch.device
) -> None:
    """MemoryError before a state is allocated that the device cannot hold, with what would fit.

    nbytes(batch_size, plan): of a state, for these and for smaller ones.
    """
    if device.type not in ("cpu", "cuda"):
        return
    needed, there = nbytes(batch_size, plan), available_nbytes(device)
    if needed <= there:
        return
    rows = _largest(batch_size, lambda rows: nbytes(rows, plan) <= there)
    tokens = 0
    if plan.length is not None:
        tokens = _largest(plan.length, lambda n: nbytes(batch_size, _shortened(plan, n)) <= there)
    fits = [f"batch_size {rows}"] if rows else []
    fits += [f"max_new_tokens {tokens}"] if tokens else []
    raise MemoryError(
        f"the state needs {needed} bytes, {device} has {there}: "
        + (f"{' or '.join(fits)} would fit; or " if fits else "")
        + "use fewer layers, shared filters (channels=), or another plan"
    )


def check_room_for(what: str, nbytes: int, device: torch.device) -> None:
    """MemoryError before something is allocated that the device has no room for now; on a CPU less
    than ``ASKED_FROM`` bytes always have.
    """
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and nbytes < ASKED_FROM):
        return
    there = free_bytes() if device.type == "cpu" else available_nbytes(device)
    if nbytes > there:
        raise MemoryError(f"{what} needs {nbytes} bytes, {device} has {there}")


def available_nbytes(device: torch.device) -> int:
    """Bytes that a state may take: all memory of a CPU, what a GPU has free for torch."""
    if device.type == "cpu":
        return DeviceInfo.of(device).memory_bytes
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + cached


def _largest(below: int, fits: Callable[[int], bool]) -> int:
    """Largest ``0 < n < below`` that fits, 0 for none; what fits is downward closed."""
    return bisect.bisect_right(range(1, below), False, key=lambda n: not fits(n))


def _shortened(plan: Plan, length: int) -> Plan:
    """The same block sizes, as far as a stream of ``length`` tokens has them."""
    sizes = tuple(size for size in plan.block_sizes if size < length) or (length,)
    slack = plan.slack_from if plan.slack_from in sizes else None
    made = plan.made_from if plan.made_from in sizes else None
    return dataclasses.replace(
        plan, length=length, block_sizes=sizes, slack_from=slack, made_from=made
    )
