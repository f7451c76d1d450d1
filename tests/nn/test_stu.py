"""STU: both modes, its spectral filters, and its two branches written out."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.nn import STU, spectral_filters
from futurefill_kernels.nn.filters import fft_conv
from tests.nn.mixers import CHANNELS, CONTEXT, MIXERS, TOLERANCE, check_modes, named


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", named("stu"))
def test_prefill_and_steps_equal_the_parallel_form(name, dtype):
    check_modes(MIXERS[name], dtype)


def test_spectral_filters_are_the_scaled_eigenvectors():
    index = torch.arange(1, 65, dtype=torch.float64)
    total = index[:, None] + index
    hankel = 2 / (total**3 - total)
    values, vectors = torch.linalg.eigh(hankel)
    expected = (vectors[:, -10:] * values[-10:] ** 0.25).flip(1).T
    found = spectral_filters(64, 10)
    signs = (found * expected).sum(1).sign()[:, None]
    torch.testing.assert_close(found * signs, expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_stu_branches_written_out():
    """Both forms against plus and minus branches as the paper states them."""
    torch.manual_seed(0)
    x = torch.randn(1, 20, CHANNELS, dtype=torch.float64)
    sign = (1 - 2 * (torch.arange(20) % 2)).double()
    u = x.transpose(1, 2)

    def branches(h, u):
        return fft_conv(u, h), sign * fft_conv(sign * u, h)

    full = MIXERS["stu-full"]().double()
    phi = spectral_filters(CONTEXT, 3)
    plus, minus = zip(*(branches(phi[k : k + 1], u) for k in range(3)), strict=True)
    weights = full.proj.weight.T.reshape(6, CHANNELS, CHANNELS)
    terms = [y.transpose(1, 2) @ w for y, w in zip([*plus, *minus], weights, strict=True)]
    torch.testing.assert_close(full(x), sum(terms), rtol=0, atol=1e-12)

    tensorised = MIXERS["stu-tensorised"]().double()
    h = tensorised.filter.mix @ spectral_filters(CONTEXT, 4)
    plus, minus = branches(h, tensorised.proj(x).transpose(1, 2))
    torch.testing.assert_close(tensorised(x), (plus + minus).transpose(1, 2), rtol=0, atol=1e-12)
    assert tensorised.filter.taps(CONTEXT)[:, 1::2].abs().max() == 0


def test_more_filters_than_positions_are_refused():
    with pytest.raises(ValueError, match="filters <= context_length = 8, got 9"):
        STU(4, 8, filters=9)


def test_spectral_filters_are_found_once_and_can_be_trained_with():
    with torch.inference_mode():
        first = spectral_filters(40, 3)
    assert spectral_filters(40, 3) is first
    model = STU(4, 40, filters=3).double()
    model(torch.randn(1, 9, 4, dtype=torch.float64)).sum().backward()
    assert model.filter.mix.grad.abs().sum() > 0
