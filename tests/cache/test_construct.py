"""What a new cache is made of: implementation, plan and bytes."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels import FutureFillCache, Plan
from futurefill_kernels.cache import construct
from futurefill_kernels.state.tensors import state_nbytes


def test_a_plan_is_made_for_the_implementation_that_runs(monkeypatch):
    asked = []

    def make_plan(*sizes, **options):
        asked.append(options)
        return ff.make_plan(*sizes, **options)

    monkeypatch.setattr(construct, "make_plan", make_plan)
    cache = FutureFillCache(torch.ones(4, 64), 1, 64)
    assert asked[0]["impl"] == cache.impl
    assert asked[0]["state_dtype"] == asked[0]["filters_dtype"] == torch.float32
    half = FutureFillCache(
        torch.ones(4, 64), 1, 64, state_dtype=torch.float16, filters_dtype=torch.bfloat16
    )
    assert asked[1]["state_dtype"] == half.state.ring.dtype == torch.float16
    assert asked[1]["filters_dtype"] == half.state.filters.dtype == torch.bfloat16


DTYPES = (
    (torch.float32, None, None), (torch.float32, torch.bfloat16, None),
    (torch.bfloat16, torch.float16, torch.bfloat16), (torch.float16, torch.float64, None),
    (torch.float64, None, torch.bfloat16),
)  # fmt: skip


@pytest.mark.parametrize("sizes", [(8,), (4, 16), (32, 64, 128, 256), (600,)])
@pytest.mark.parametrize(("dtype", "state_dtype", "filters_dtype"), DTYPES)
def test_what_a_plan_says_of_a_channel_is_what_is_held(
    impl, sizes, dtype, state_dtype, filters_dtype
):
    channels, plan = 32, Plan(600, sizes)
    cache = FutureFillCache(
        torch.randn(channels, 600), 1, 600, plan=plan, impl=impl, dtype=dtype,
        state_dtype=state_dtype, filters_dtype=filters_dtype,
    )  # fmt: skip
    state, memory = cache.state, cache.memory()
    parts = {"ring", "open_block", "kept", "taps", "first taps", "spectra"}
    held = sum(n for name, n in (memory.rows | memory.filters).items() if name in parts)
    behind = state.ring.itemsize * (state.layout.slots - plan.slots)  # a gap, and no tokens'
    unprepared = 0 if state.layout.spectra else 2 * state.dtype.itemsize * plan.spectra_rows
    said = plan.bytes_per_channel(state.ring.dtype, filters_dtype)
    assert held == channels * (said + behind - unprepared)
    sizes = {
        "itemsize": state.dtype.itemsize, "ring_itemsize": state.ring.itemsize,
        "filters_itemsize": state.filters.itemsize,
    }  # fmt: skip
    held = memory.nbytes - memory.workspace.get("scratch", 0)
    assert held == state_nbytes(plan, state.layout, layers=1, batch_size=1, **sizes)


@pytest.mark.parametrize("sizes", [(8,), (4, 16), (32, 64, 128, 256)])
@pytest.mark.parametrize(("channels", "groups"), [(5, 5), (32, 2), (48, 48)])
def test_bytes_follow_the_formula_and_not_the_prompt(impl, sizes, channels, groups):
    h = torch.randn(groups, 4096)
    found = set()
    for prompt in (0, 1000, 10000):
        cache = FutureFillCache(
            h,
            2,
            512,
            channels=channels,
            skip=torch.ones(channels),
            plan=Plan(512, sizes),
            impl=impl,
        )
        if prompt:
            cache.prefill(torch.randn(2, channels, prompt))
        for _ in range(2):  # the first of them can be taken back, with the prompt
            cache.step(torch.randn(2, channels))
        found.add(cache.nbytes - cache.memory().workspace.get("scratch", 0))
        assert not any(cache.in_prompt(row) for row in range(2))
    assert len(found) == 1
    sizes = {"layers": 1, "batch_size": 2, "filters": (groups, 4096), "skip": True}
    assert found == {state_nbytes(cache.plan, cache.state.layout, **sizes)}


def test_state_of_a_plan_with_slack(impl):
    plan = Plan(200, (4, 8, 32), slack_from=8)
    cache = FutureFillCache(torch.randn(24, 200), 2, 200, plan=plan, impl=impl)
    held = cache.nbytes - cache.memory().workspace.get("scratch", 0)
    assert held == state_nbytes(plan, cache.state.layout, layers=1, batch_size=2)


@pytest.mark.cpu_only("the message has the CPU's bytes")
def test_a_state_beyond_the_memory_is_refused_before_it_is_allocated():
    filters = torch.ones(1, 4)
    with pytest.raises(MemoryError, match=r"the state needs \d+ bytes, cpu has \d+"):
        ff.FutureFillCache(filters, 1 << 20, 1 << 20, channels=64, plan=ff.Plan(1 << 20, (1024,)))


@pytest.mark.cpu_only("GPU implementations keep them")
def test_spectra_in_other_dtypes_are_refused_where_there_are_none():
    h = torch.randn(4, 8)
    with pytest.raises(RuntimeError, match="reference keeps no filter spectra in bfloat16"):
        ff.FutureFillCache(h, 1, 8, spectra_dtype=torch.bfloat16)
    for impl in ("cpu", "reference"):
        with pytest.raises(RuntimeError, match=f"{impl}.*keeps no filter spectra in bfloat16"):
            ff.FutureFillCache(h, 1, 8, impl=impl, spectra_dtype=torch.bfloat16)
    for dtype in (torch.float16, torch.float64):
        with pytest.raises(TypeError, match="expected spectra_dtype to be None, float32, bfloat16"):
            ff.FutureFillCache(h, 1, 8, spectra_dtype=dtype)
    assert ff.FutureFillCache(h, 1, 8, spectra_dtype=torch.float32).nbytes
    assert ff.FutureFillCache(h.double(), 1, 8, spectra_dtype=torch.float64).nbytes
