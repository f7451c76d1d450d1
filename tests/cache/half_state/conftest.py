"""Where a state of 16 bits is kept."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.implementations.select import IMPLEMENTATIONS, cannot_run
from tests.implementations import plain_gpu

from .caches import HALF


@pytest.fixture(
    params=[*IMPLEMENTATIONS, pytest.param("plain gpu", marks=pytest.mark.slow)]
)  # fmt: skip
def impl(request, device, monkeypatch):
    """Those that keep such a state on the device, and what GPUs share of it."""
    if request.param == "plain gpu":
        monkeypatch.setitem(IMPLEMENTATIONS, "plain gpu", plain_gpu.implementation())
        return request.param
    reasons = cannot_run(device, torch.float32, ring_dtype=HALF[0])[request.param]
    if reasons:
        pytest.skip(f"{request.param}: {'; '.join(reasons)}")
    return request.param
