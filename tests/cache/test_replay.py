"""Replay: a restored stream continues as if nothing had happened."""

from __future__ import annotations

import pytest
import torch

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
