"""Whether a device holds a stream."""

from __future__ import annotations

import torch

from .device import DeviceInfo


def check_memory(nbytes: int, device: torch.device) -> None:
    """MemoryError before a state is allocated that the device cannot hold."""
    total = DeviceInfo.of(device).memory_bytes if device.type in ("cpu", "cuda") else nbytes
    if nbytes > total:
        raise MemoryError(
            f"the state needs {nbytes} bytes, {device} has {total}: use fewer rows, layers or "
            "max_new_tokens, shared filters (channels=), or another plan"
        )
