"""A stream of two implementations: Triton's fills in its interpreter, the rest in the emulator."""

from __future__ import annotations

import os

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


@pytest.mark.parametrize(("sizes", "slack_from"), [((4, 8, 32), None), ((4, 16, 32), 16)])
def test_a_stream_of_two_implementations(monkeypatch, sizes, slack_from):
    from tests.emulation.implementation import emulated_implementation

    emulated = emulated_implementation()
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
