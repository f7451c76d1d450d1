"""Bytes that a workload holds under a plan, and whether a device has them."""

from __future__ import annotations

import torch

from ..plan import Plan, transform_length
from ..state.layout import Layout
from ..state.tensors import state_nbytes
from .device import DeviceInfo
from .workload import Workload

#: Share of a GPU's memory that a state may take; the rest is the model's and the driver's.
MEMORY_SHARE = 0.9


def usable_bytes(info: DeviceInfo) -> int:
    """Bytes of a GPU's memory that a state may take."""
    return int(MEMORY_SHARE * info.memory_bytes)


def needed_nbytes(workload: Workload, plan: Plan) -> int:
    """Bytes on a GPU: the state, its prepared filters, and the filters that prefill reads."""
    layout = Layout.padded(workload.channels, workload.groups, plan.length)
    state = state_nbytes(
        plan, layout, layers=workload.layers, batch_size=workload.batch_size,
        spectra_itemsize=workload.spectra_itemsize,
    )  # fmt: skip
    return state + 4 * workload.layers * workload.groups * workload.filter_length


def taps_nbytes(workload: Workload, block: int) -> int:
    """Bytes of the taps of short-range convolutions, without padding."""
    return 4 * workload.layers * workload.groups * block


def spectra_nbytes(workload: Workload, rows: int) -> int:
    """Bytes of complex rows of filter spectra, ``Plan.spectra_rows``, without padding."""
    return 2 * workload.spectra_itemsize * workload.layers * workload.groups * rows


def level_nbytes(workload: Workload, block: int, radix: int) -> int:
    """Bytes of a level's filter spectra and kept input spectra, without padding."""
    n, spectra = transform_length(block), workload.n_spectra(block, radix)
    kept = 8 * workload.all_channels * n * max(spectra - 1, 0)
    return spectra_nbytes(workload, n * spectra) + kept


def check_memory(nbytes: int, device: torch.device) -> None:
    """MemoryError before a state is allocated that the device cannot hold."""
    total = DeviceInfo.of(device).memory_bytes if device.type in ("cpu", "cuda") else nbytes
    if nbytes > total:
        raise MemoryError(
            f"the state needs {nbytes} bytes, {device} has {total}: use fewer rows, layers or "
            "max_new_tokens, shared filters (channels=), or another plan"
        )
