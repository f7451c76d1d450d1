"""Large tensors of a stream on huge pages: a step touches a page per tile and array."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

_SMALLEST = 4 << 20  # bytes for which a huge page of 2 MiB is not mostly padding
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux only


def empty(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``torch.empty``, whose memory the system is asked to back by huge pages where it can.

    The request is advice: without it, or where it is refused, the tensor is the same.
    """
    x = torch.empty(*shape, dtype=dtype, device=device)
    if device.type == "cpu" and _ADVICE is not None and x.nbytes >= _SMALLEST:
        start = -(-x.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (x.data_ptr() + x.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        madvise(start, length, _ADVICE)
    return x
