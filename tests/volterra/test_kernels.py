"""Moments of kernels against closed forms in many digits."""

from __future__ import annotations

import mpmath
import pytest
import torch

from futurefill_kernels.volterra.kernels import FunctionKernel, PowerKernel, as_kernel


def exact_moments(alpha, j):
    with mpmath.workdps(60):
        a, low, high = mpmath.mpf(alpha), mpmath.mpf(j), mpmath.mpf(j + 1)
        zeroth = (high**a - low**a) / a
        first = (high ** (a + 1) - low ** (a + 1)) / (a + 1) - low * zeroth
        return float(zeroth), float(first)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 1.7])
def test_power_kernel(alpha):
    step, scale = 0.25, 3.0
    zeroth, first = PowerKernel(alpha, scale).moments(step, 100_001)
    for j in (0, 1, 2, 17, 4096, 100_000):
        expected = [scale * step**alpha * m for m in exact_moments(alpha, j)]
        assert float(zeroth[0, j]) == pytest.approx(expected[0], rel=4e-15)
        assert float(first[0, j]) == pytest.approx(expected[1], rel=4e-15)


def test_a_row_for_every_equation():
    both = PowerKernel(torch.tensor([0.3, 0.8]), torch.tensor([1.0, 2.0])).moments(0.1, 9)
    for row, (alpha, scale) in enumerate(((0.3, 1.0), (0.8, 2.0))):
        alone = PowerKernel(alpha, scale).moments(0.1, 9)
        for together, moments in zip(both, alone, strict=True):
            torch.testing.assert_close(
                together[row], moments[0], rtol=1e-6, atol=0
            )  # float32 input


def test_function_kernel():
    zeroth, first = as_kernel(lambda t: torch.exp(-t)).moments(0.5, 6)
    t = 0.5 * torch.arange(6, dtype=torch.float64)
    expected = torch.exp(-t) - torch.exp(-t - 0.5)
    torch.testing.assert_close(zeroth[0], expected, rtol=1e-14, atol=0)
    at_ends = torch.exp(-t) * (1 - 1.5 * torch.exp(torch.tensor(-0.5).double())) / 0.5
    torch.testing.assert_close(first[0], at_ends, rtol=1e-13, atol=0)


def test_square_over_the_first_step():
    assert float(PowerKernel(0.6, 2.0).first_square(0.01)) == pytest.approx(4 * 0.01**0.2 / 0.2)
    square = FunctionKernel(lambda t: torch.exp(-t)).first_square(0.5)
    assert float(square) == pytest.approx((1 - mpmath.e**-1) / 2)
    with pytest.raises(ValueError, match="alpha > 1/2"):
        PowerKernel(0.5).first_square(0.1)


def test_singular_and_rough_functions_are_refused():
    with pytest.raises(ValueError, match=r"finite at 0, got k\(0\) = inf.*PowerKernel"):
        as_kernel(lambda t: t**-0.5)
    with pytest.raises(ValueError, match="changes too fast"):
        as_kernel(lambda t: torch.cos(1000 * t)).moments(0.1, 10)
    with pytest.raises(ValueError, match=r"not finite after t = 1"):
        as_kernel(lambda t: torch.where(t > 1, torch.inf, 1.0)).moments(0.5, 4)
    with pytest.raises(ValueError, match=r"of shape \(1,\) like t, got \(\)"):
        as_kernel(lambda t: t.sum())
    with pytest.raises(TypeError, match="expected kernel to be a function"):
        as_kernel(3.0)


@pytest.mark.parametrize(
    ("alpha", "scale"), [(0.0, 1), (-0.5, 1), (float("nan"), 1), (0.5, float("inf"))]
)
def test_bad_powers(alpha, scale):
    with pytest.raises(ValueError, match="expected"):
        PowerKernel(alpha, scale)
