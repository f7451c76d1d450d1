"""Taps are kept once, and caches of the same filters share them."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

import futurefill_kernels as ff
from futurefill_kernels.state.filters import make_bank, short_range_taps

F32, BF16 = torch.float32, torch.bfloat16


def test_shorter_filters_end_in_zeros():
    filters = [torch.randn(3, 20), torch.randn(3, 7)]
    bank = make_bank(filters, F32, F32)
    assert bank.taps.shape == (2, 3, 20)
    assert not bank.taps[1, :, 7:].any()
    for h, kept in zip(filters, bank, strict=True):
        assert torch.equal(h, kept)


def test_the_same_filters_are_one_bank_and_others_are_not():
    h = torch.randn(3, 20)
    bank = make_bank([h], F32, F32)
    assert make_bank([h.clone()], F32, F32) is bank
    swapped = h[[1, 0, 2]]  # the same sum
    assert make_bank([swapped], F32, F32) is not bank
    assert make_bank([h], F32, BF16) is not bank
    assert make_bank([h, h], F32, F32) is not bank


def test_a_bank_is_a_copy_and_goes_with_the_last_that_holds_it():
    h = torch.randn(3, 20)
    bank, before = make_bank([h], F32, F32), h.clone()
    h.zero_()
    assert torch.equal(bank.layer(0), before)
    held = weakref.ref(bank)
    del bank
    gc.collect()
    assert held() is None


def test_first_taps_with_zeros_where_the_filter_has_ended():
    taps = short_range_taps(torch.ones(2, 3), ff.Plan(8, (4,)), F32)
    assert taps.tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]


def test_caches_of_the_same_filters_share_taps_and_spectra(impl, device):
    h = torch.randn(5, 60, device=device)
    caches = [
        ff.FutureFillCache(h, rows, 50, plan=ff.Plan(50, (4, 8)), impl=impl) for rows in (1, 3)
    ]
    assert caches[0].state.prepared is caches[1].state.prepared
    other = ff.FutureFillCache(h, 1, 40, plan=ff.Plan(40, (4, 8)), impl=impl)
    assert other.state.filters is caches[0].state.filters
    assert other.state.prepared is not caches[0].state.prepared


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_rounded_filters_are_the_same_in_prompts_steps_and_fills(impl, device, groups):
    h, u = torch.randn(groups, 70, device=device) / 8, torch.randn(2, 6, 90, device=device)
    plan = ff.Plan(64, (4, 8, 32))
    cache = ff.FutureFillCache(h, 2, 64, channels=6, plan=plan, impl=impl, filters_dtype=BF16)
    assert cache.state.filters.dtype is BF16
    y = [cache.prefill(u[..., :20]), cache.prefill(u[..., 20:26])]
    y += [cache.step(u[..., t])[..., None] for t in range(26, 90)]
    expected = ff.reference.causal_conv(u.double(), h.to(BF16).double())
    assert (torch.cat(y, -1) - expected).abs().max() < 3e-6 * expected.abs().max()
    exact = ff.FutureFillCache(h, 2, 64, channels=6, plan=plan, impl=impl)
    assert exact.nbytes - cache.nbytes == groups * 70 * 2
    with pytest.raises(ValueError, match="expected a state of the same filters"):
        exact.load_state_dict(cache.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32])
def test_other_dtypes_of_filters_are_refused(dtype):
    with pytest.raises(
        TypeError, match="expected filters_dtype to be None, float32, bfloat16, got"
    ):
        ff.FutureFillCache(torch.ones(1, 4), 1, 4, filters_dtype=dtype)
