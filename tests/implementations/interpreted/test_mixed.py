"""A stream of two implementations: Triton's fills in its interpreter, the rest in the emulator."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.implementations import select, triton
from futurefill_kernels.implementations.mixed import Mixed
from tests.emulation import cuda_compile
from tests.oracles import relative_error

if "TRITON_INTERPRET" not in os.environ:
    pytest.skip("runs with TRITON_INTERPRET=1, see test_triton.py", allow_module_level=True)
reason = cuda_compile.unavailable()
pytestmark = pytest.mark.skipif(reason is not None, reason=f"no CUDA emulation: {reason}")


@pytest.fixture
def emulated(monkeypatch):
    """CUDA's kernels, by name."""
    from tests.emulation.implementation import emulated_implementation

    found = emulated_implementation()
    for names in (select.IMPLEMENTATIONS, select.LEVEL_FILLS):
        monkeypatch.setitem(names, "emulated", found)
    return found


@pytest.mark.parametrize(("sizes", "slack_from"), [((4, 8, 32), None), ((4, 16, 32), 16)])
def test_a_stream_of_two_implementations(monkeypatch, emulated, sizes, slack_from):
    mixed = Mixed(emulated, triton, (triton, emulated, triton))
    monkeypatch.setitem(select.IMPLEMENTATIONS, "mixed", mixed)
    torch.manual_seed(1)
    plan = ff.Plan(70, sizes, slack_from=slack_from)
    filters, u = torch.randn(3, 90) / 8, torch.randn(2, 6, 79)
    cache = ff.FutureFillCache(filters, 2, 70, channels=6, plan=plan, impl="mixed")
    found = [cache.prefill(u[..., :9])]
    found += [cache.step(u[..., t])[..., None] for t in range(9, 79)]
    expected = ff.reference.causal_conv(u.double(), filters.double())
    assert relative_error(torch.cat(found, -1), expected) < 1e-6
    fills = {name.split()[1] for name in emulated.launches if name.split()[0] in ("fill", "share")}
    assert fills == {str(sizes[1])}


MIXED = "emulated;triton;triton,emulated,triton"


@pytest.mark.parametrize("rollback", [0, None])
def test_it_is_copied_pickled_and_loaded_as_it_is(emulated, rollback):
    """Bit for bit: each level by the fills that it had, and no others."""
    torch.manual_seed(2)
    plan, filters, u = ff.Plan(70, (4, 8, 32)), torch.randn(6, 90) / 8, torch.randn(2, 6, 79)

    def made():
        return ff.FutureFillCache(filters, 2, 70, plan=plan, impl=MIXED, rollback=rollback)

    cache = made()
    assert cache.impl == cache.capabilities.name == "emulated+triton"
    cache.prefill(u[..., :9])
    for t in range(9, 43):
        cache.step(u[..., t])
    loaded = made()
    loaded.load_state_dict(cache.state_dict())
    others = [copy.deepcopy(cache), cache.clone(), pickle.loads(pickle.dumps(cache)), loaded]
    emulated.launches.clear()
    expected = torch.stack([cache.step(u[..., t]) for t in range(43, 79)])
    alone = emulated.launches[:]
    assert "fill 8" in alone
    for other in others:
        assert other.impl == cache.impl
        emulated.launches.clear()
        found = torch.stack([other.step(u[..., t]) for t in range(43, 79)])
        assert torch.equal(found, expected)
        assert emulated.launches == alone
        assert other.state.prepared is cache.state.prepared  # the same filters, arranged alike
