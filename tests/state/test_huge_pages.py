"""Large tensors on huge pages are tensors like others."""

from __future__ import annotations

import mmap

import pytest
import torch

from futurefill_kernels.state import huge_pages


@pytest.mark.parametrize("length", [0, 1, mmap.PAGESIZE, (8 << 20) + 3])
def test_the_advice_changes_no_value(length):
    x = huge_pages.empty(2, length, dtype=torch.int16, device=torch.device("cpu"))
    assert x.shape == (2, length)
    assert x.is_contiguous()
    x.fill_(7)
    assert torch.equal(x, torch.full((2, length), 7, dtype=torch.int16))
