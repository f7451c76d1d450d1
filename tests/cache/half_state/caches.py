"""Equal caches with a state of 16 bits, their steps, and what it means that they are the same."""

from __future__ import annotations

import torch

import futurefill_kernels as ff
from futurefill_kernels.state.open_block import whole_slots

#: Half a unit in the last place of 1.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
HALF = list(ROUNDING)


def caches(impl, sizes, count=1, **options):
    """Equal caches of two layers, three rows and D = 6 on G = 3, and their filters."""
    torch.manual_seed(0)
    h = [torch.randn(3, taps) / taps**0.5 for taps in (40, 200)]
    options = {"channels": 6, "state_dtype": torch.bfloat16, "dtype": torch.float32} | options
    found = [
        ff.FutureFillCache(h, 3, 150, plan=ff.Plan(150, sizes), impl=impl, **options)
        for _ in range(count)
    ]
    return h, found


def steps(cache, u, rows=None):
    """u: (B, D, T) for both layers. Returns (layers, B, D, T)."""
    tokens = [
        torch.stack([cache.step(u[..., t], layer, rows=rows) for layer in range(2)])
        for t in range(u.shape[-1])
    ]
    return torch.stack(tokens, -1)


def same(a, b):
    """Two caches are in the same state, bit for bit."""
    a.launch_fills(), b.launch_fills()
    places = a.state.positions.tolist()
    assert places == b.state.positions.tolist()
    assert torch.equal(whole_slots(a.state, places), whole_slots(b.state, places))
    assert torch.equal(a.state.kept, b.state.kept)
