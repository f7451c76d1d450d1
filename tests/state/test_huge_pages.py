"""Large tensors on huge pages are tensors like others."""

from __future__ import annotations

import mmap

import pytest
import torch

from futurefill_kernels.state import huge_pages


@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_untouched_is_zero(sparse):
    for shape in ((3, 5), (3, 2 << 20)):
        x = huge_pages.untouched(
            *shape, dtype=torch.float32, device=torch.device("cpu"), sparse=sparse
        )
        assert x.shape == shape
        assert not x.any()
        x[1].fill_(2)
        assert x.sum() == 2 * shape[1]


@pytest.mark.parametrize("length", [0, 1, mmap.PAGESIZE, (8 << 20) + 3])
def test_the_advice_changes_no_value(length):
    x = huge_pages.empty(2, length, dtype=torch.int16, device=torch.device("cpu"))
    assert x.shape == (2, length)
    assert x.is_contiguous()
    x.fill_(7)
    assert torch.equal(x, torch.full((2, length), 7, dtype=torch.int16))
