"""Replay: a restored stream continues as if nothing had happened."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from tests.cache.full_memory import FullMemory
from tests.cache.streams import PLANS, Stream


@pytest.mark.parametrize("rollback", [None, 0])
def test_restored_state_continues_bit_for_bit(impl, rollback):
    stream = Stream(
        5, batch=2, channels=5, groups=5, layers=2, taps=99, total=120, dtype=torch.float32
    )
    for sizes in PLANS:
        cache = stream.cache(100, sizes, impl, rollback)
        stream.prefill(cache, 0, 20)
        for t in range(20, 77):
            stream.step(cache, t)
        restored = stream.cache(100, sizes, impl, rollback)
        restored.load_state_dict(cache.state_dict())
        for t in range(77, 120):
            stream.step(cache, t)
            first = stream.got[..., t].clone()
            stream.step(restored, t)
            assert torch.equal(first, stream.got[..., t])


@pytest.mark.parametrize("chosen", ["cpu", "reference"])
@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16])
def test_a_crop_that_runs_out_of_memory_anywhere_is_repeated(state_dtype, chosen):
    torch.manual_seed(1)
    h, u = torch.randn(2, 2, 24) / 5, torch.randn(24, 2, 2, 2)
    whole = ff.FutureFillCache(
        list(h), 2, 24, plan=ff.Plan(24, (4, 8, 16)), impl=chosen, rollback=None,
        state_dtype=state_dtype,
    )  # fmt: skip
    for u_t in u[:15]:
        for layer in range(2):
            whole.step(u_t[layer], layer)
    for number in range(1000):
        cache, expected = whole.clone(), whole.clone()
        expected.crop([13, 9])
        full = FullMemory(number)
        try:
            with full:
                cache.crop([13, 9])
        except MemoryError:
            cache.crop([13, 9])
        for u_t in u[15:20]:
            for layer in range(2):
                assert torch.equal(cache.step(u_t[layer], layer), expected.step(u_t[layer], layer))
        if full.left >= 0:  # it had all that it asked for
            break
    assert number >= 3
