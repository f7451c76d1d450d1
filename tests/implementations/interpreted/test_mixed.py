"""A stream of two implementations: Triton's fills in its interpreter, the rest in the emulator."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import window
from futurefill_kernels.implementations import (
    fft_fill,
    gpu_made_spectra,
    gpu_passes,
    select,
    triton,
)
from futurefill_kernels.implementations.mixed import Mixed
from futurefill_kernels.implementations.triton_kernels import config
from tests.emulation import cuda_compile
from tests.implementations.interpreted.states import make_state
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


MIXED = "emulated;triton,5:emulated;triton,emulated,triton"


@pytest.mark.parametrize("rollback", [0, None])
def test_it_is_copied_pickled_and_loaded_as_it_is(emulated, rollback):
    """Bit for bit: each level by the fills that it had, and no others."""
    torch.manual_seed(2)
    plan, filters, u = ff.Plan(70, (4, 8, 32)), torch.randn(6, 90) / 8, torch.randn(2, 6, 79)

    def made():
        return ff.FutureFillCache(filters, 2, 70, plan=plan, impl=MIXED, rollback=rollback)

    cache = made()
    assert cache.impl == cache.capabilities.name == "emulated+triton"
    cache.prefill(u[..., :4])
    cache.prefill(u[..., 4:9])
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


@pytest.mark.parametrize("impl", ["triton", "emulated", MIXED, "triton;triton;fft,triton,fft"])
def test_levels_that_make_their_spectra_run_the_same_fills(emulated, monkeypatch, impl):
    """Rows at their own positions, filters that channels share, a block that is no power of two;
    torch.fft does no block that an implementation can.
    """
    if "fft" not in impl:
        monkeypatch.delattr(fft_fill, "fill_by")
        monkeypatch.delattr(gpu_made_spectra, "fill_by")
    torch.manual_seed(3)
    plan = ff.Plan(100, (3, 12, 48), made_from=12)
    filters, u = torch.randn(3, 100) / 8, torch.randn(2, 6, 100)
    expected = ff.reference.causal_conv(u.double(), filters.double())
    cache = ff.FutureFillCache(filters, 2, 100, channels=6, plan=plan, impl=impl)
    for t in range(4):
        cache.step(u[:1, :, t], rows=[0])
    for t in range(4, 100):
        y = cache.step(torch.stack([u[0, :, t], u[1, :, t - 4]]))
        assert relative_error(y[0], expected[0, :, t]) < 1e-5
        assert relative_error(y[1], expected[1, :, t - 4]) < 1e-5


@pytest.mark.parametrize(
    ("impl", "block", "channels"),
    [
        ("triton", 256, 40),
        ("emulated", 4096, 40),
        pytest.param("emulated", 16384, 32, marks=pytest.mark.slow),
    ],
)
def test_a_long_block_makes_its_spectra_in_the_order_of_its_fills(
    emulated, monkeypatch, impl, block, channels
):
    """Three passes, of Triton as if a program held 32 points; and unit by unit, as CUDA stores the
    spectra of the longest that fit a program.
    """
    if impl == "triton":
        for name in ("_FILL", "_KEEPING_FILL"):
            short = {n: found for n, found in getattr(config, name).items() if n <= 32}
            monkeypatch.setattr(config, name, short)
        monkeypatch.setattr(config, "NODE_POINTS", (32,))
    monkeypatch.setattr(gpu_passes, "WORKSPACE_BYTES", 1)
    plan = ff.Plan(2 * block, (block,), made_from=block)
    state, filters = make_state(plan, channels, 2, channels, layers=2)
    level, clean = plan.levels[0], state.ring.clone()
    state.positions.copy_(torch.tensor([block, 0]))
    select.IMPLEMENTATIONS[impl].fill(state, level, torch.tensor([-1, 0]))
    for layer in range(2):
        u = clean[layer, 0, 0, :block, :channels].T
        added = ff.reference.future_fill(u[None].double(), filters[layer].double(), block)[0].T
        filled = state.ring[layer, 0, 0, block:] - clean[layer, 0, 0, block:]
        assert relative_error(filled[:, :channels], added) < 1e-5
    assert torch.equal(state.ring[:, 1], clean[:, 1])


@pytest.mark.parametrize("impl", ["triton", "triton;triton;triton,fft"])
def test_an_endless_stream_makes_spectra_of_blocks_from_before_its_leaps(monkeypatch, impl):
    """Filters reach over several blocks, also where the slots are used again."""
    monkeypatch.setattr(window, "SHORTEST_PERIOD", 8)
    torch.manual_seed(4)
    plan = ff.Plan(None, (2, 4), filter_length=14, made_from=4)
    filters, u = torch.randn(4, 14) / 8, torch.randn(1, 4, 90)
    expected = ff.reference.causal_conv(u.double(), filters.double())
    cache = ff.FutureFillCache(filters, 1, None, plan=plan, impl=impl)
    assert cache.plan.levels[-1].n_spectra > 2
    assert cache.plan.window.end + 2 * cache.plan.window.period < 90
    for t in range(90):
        assert relative_error(cache.step(u[..., t]), expected[..., t]) < 1e-5
