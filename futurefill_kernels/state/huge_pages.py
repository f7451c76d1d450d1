"""Large tensors of a stream on huge pages: a step touches a page per tile and array."""

from __future__ import annotations

import ctypes
import math
import mmap

import torch
from torch import Tensor

_PAGE = 2 << 20
_SMALLEST = 2 * _PAGE  # bytes for which a huge page is not mostly padding
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux only
_AGAINST = getattr(mmap, "MADV_NOHUGEPAGE", None)
_madvise = None if _ADVICE is None else ctypes.CDLL(None).madvise
if _madvise is not None:
    _madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def empty(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``torch.empty``, whose memory the system is asked to back by huge pages where it can.

    The request is advice: without it, or where it is refused, the tensor is the same.
    """
    x = torch.empty(*shape, dtype=dtype, device=device)
    if device.type == "cpu" and x.nbytes >= _SMALLEST:
        advise(x)
    return x


def advise(x: Tensor) -> None:
    """Ask for huge pages wherever the memory of a CPU tensor is not touched yet."""
    if _madvise is None:
        return
    start = -(-x.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (x.data_ptr() + x.nbytes - start) // mmap.PAGESIZE * mmap.PAGESIZE
    _madvise(start, length, _ADVICE)


def untouched(*shape: int, dtype: torch.dtype, device: torch.device, sparse: bool) -> Tensor:
    """``torch.zeros``; of a large one of the CPU the system makes a page when it is touched.

    sparse: less than an eighth of it is going to be touched soon. A huge page costs about as much
    as an eighth of it in small ones (64 MiB: 9 ms, and 35 ms in small ones, in a virtual machine on
    AMD EPYC Zen 3).
    """
    nbytes = math.prod(shape) * dtype.itemsize
    advice = _AGAINST if sparse else _ADVICE
    if device.type != "cpu" or advice is None or nbytes < _SMALLEST:
        return torch.zeros(*shape, dtype=dtype, device=device)
    # of whole huge pages: then they begin with the first byte
    whole = -(-nbytes // _PAGE) * _PAGE
    memory = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(advice)
    return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape)).view(shape)
