"""Replay: a restored stream continues as if nothing had happened."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import futurefill_kernels as ff
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


class _Full(TorchDispatchMode):
    """Of the operations that allocate the one with that number cannot."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if any(each.alias_info is None for each in op._schema.returns):
            self.left -= 1
            if self.left == -1:
                raise MemoryError(str(op))
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16])
def test_a_crop_that_runs_out_of_memory_anywhere_is_repeated(state_dtype):
    torch.manual_seed(1)
    h, u = torch.randn(2, 24) / 5, torch.randn(24, 2, 2)
    plan = ff.Plan(24, (4, 8, 16))
    whole = ff.FutureFillCache(h, 2, 24, plan=plan, rollback=None, state_dtype=state_dtype)
    for u_t in u[:15]:
        whole.step(u_t)
    for number in range(1000):
        cache, expected = whole.clone(), whole.clone()
        expected.crop([13, 9])
        full = _Full(number)
        try:
            with full:
                cache.crop([13, 9])
        except MemoryError:
            cache.crop([13, 9])
        for u_t in u[15:20]:
            assert torch.equal(cache.step(u_t), expected.step(u_t))
        if full.left >= 0:  # it had all that it asked for
            break
    assert number >= 3
