"""What the CPU's engine works in is there before the first step."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import native

pytestmark = pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None, reason="the engine is not built"
)

STREAM = """
import ctypes, sys, torch
import futurefill_kernels as ff

class Held(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Held
libc.mallopt(-3, 1 << 16)  # larger ones have pages of their own, which are counted

memory, state_dtype = sys.argv[1], getattr(torch, sys.argv[2])
plan = ff.Plan(16384, (16, 1024, 4096, 8192))
cache = ff.FutureFillCache(
    torch.ones(16, 16384) / 16384, 2, 16384, plan=plan, impl="cpu", memory=memory,
    state_dtype=state_dtype,
)
u = torch.ones(2, 16)
cache.step(u, out=u)
before = libc.mallinfo2().hblkhd
while not cache.full:
    cache.step(u, out=u)
assert libc.mallinfo2().hblkhd == before
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library does not say what it holds"
)
@pytest.mark.parametrize("memory", ["speed", "small"])
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_no_fill_allocates(memory, state_dtype):
    done = subprocess.run(
        [sys.executable, "-c", STREAM, memory, state_dtype], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def held(plan: ff.Plan, batch: int = 1, **options) -> int:
    cache = ff.FutureFillCache(torch.ones(64, 512), batch, 512, plan=plan, impl="cpu", **options)
    return cache.memory().workspace.get("scratch", 0)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_it_is_counted():
    """By rows that share a reading of spectra, made spectra and threads; taps need none."""
    kept, made = ff.Plan(512, (8, 128, 256)), ff.Plan(512, (8, 128, 256), made_from=256)
    one, twiddles = held(kept), 16 * 256 * 4
    tree = 2 * 256 * 4 * native.tile_lanes(torch.float32, 64)
    assert tree < one - twiddles < 3 * tree
    assert tree <= held(made) - one < tree + 8192
    assert held(kept, batch=3) - one >= 2 * tree
    assert held(kept, batch=8) == held(kept, batch=9)
    assert held(ff.Plan(512, (512,))) == 0
    torch.set_num_threads(2)
    assert held(kept) - twiddles == 2 * (one - twiddles)
