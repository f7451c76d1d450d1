"""Weights against generating functions and closed forms in many digits."""

from __future__ import annotations

import mpmath
import pytest
import torch

from futurefill_kernels.volterra import PowerKernel, weights


def alphas(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [-0.5, 0.3, 1.5])
def test_grunwald_letnikov_are_binomials(alpha):
    found = weights.grunwald_letnikov(alphas(alpha), 30)[0]
    expected = [float((-1) ** j * mpmath.binomial(alpha, j)) for j in range(30)]
    torch.testing.assert_close(found, alphas(*expected), rtol=1e-13, atol=0)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_l1(alpha):
    found = weights.l1(alphas(alpha), 20_001)[0]
    with mpmath.workdps(50):
        p = mpmath.mpf(1) - mpmath.mpf(alpha)
        for j in (0, 1, 2, 3, 20_000):
            increments = [(k + 1) ** p - mpmath.mpf(k) ** p for k in (j, j - 1) if k >= 0]
            expected = (increments[0] - sum(increments[1:])) / mpmath.gamma(1 + p)
            assert float(found[j]) == pytest.approx(float(expected), rel=1e-14)


@pytest.mark.parametrize("alpha", [0.4, 1.0, 1.8])
def test_trapezoid_is_the_corrector_of_diethelm_ford_and_freed(alpha):
    scale = float(1 / mpmath.gamma(alpha))
    moments = PowerKernel(alpha, scale).moments(1.0, 5001)
    w, first = (x[0] for x in weights.trapezoid(moments))
    with mpmath.workdps(50):
        a = mpmath.mpf(alpha)
        gamma = mpmath.gamma(a + 2)
        for n in (1, 2, 50, 5000):
            inner = (mpmath.mpf(n + 1) ** (a + 1) + mpmath.mpf(n - 1) ** (a + 1)
                     - 2 * mpmath.mpf(n) ** (a + 1)) / gamma  # fmt: skip
            oldest = (mpmath.mpf(n - 1) ** (a + 1) - (n - 1 - a) * mpmath.mpf(n) ** a) / gamma
            assert float(w[n]) == pytest.approx(float(inner), rel=1e-13)
            assert float(w[n] + first[n]) == pytest.approx(float(oldest), rel=1e-13)
    assert float(w[0]) == pytest.approx(float(1 / gamma), rel=1e-14)
    assert float(w[0] + first[0]) == 0


@pytest.mark.parametrize("alpha", [0.5, 1.3, -0.5])
def test_bdf2_are_taylor_coefficients(alpha):
    found = weights.bdf2(alphas(alpha), 80)[0]
    with mpmath.workdps(60):
        # Miller's recurrence for the power of a polynomial
        p = [mpmath.mpf(3) / 2, mpmath.mpf(-2), mpmath.mpf(1) / 2]
        expected = [p[0] ** -mpmath.mpf(alpha)]
        for n in range(1, 80):
            terms = [
                (-k * mpmath.mpf(alpha) - n + k) * p[k] * expected[n - k] for k in (1, 2) if k <= n
            ]
            expected.append(sum(terms) / (n * p[0]))
    torch.testing.assert_close(found, alphas(*map(float, expected)), rtol=1e-13, atol=0)


def test_exponents():
    assert weights.exponents(alphas(0.5)).tolist() == [[0, 0.5, 1]]
    assert weights.exponents(alphas(0.4)).tolist() == [[0, 0.4, 0.8, 1]]
    assert weights.exponents(alphas(1.5)).tolist() == [[0, 1]]
    # the second row is filled up
    assert weights.exponents(alphas(0.5, 1.5)).tolist() == [[0, 0.5, 1], [0, 1, 1.5]]


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8, 1.5])
def test_starting_weights_make_powers_exact(alpha):
    a = alphas(alpha)
    w = weights.bdf2(a, 200)
    start = weights.starting(a, w)[0]
    n = torch.arange(200, dtype=torch.float64)
    for gamma in weights.exponents(a)[0].tolist():
        f = n**gamma
        factor = mpmath.gamma(gamma + 1) / mpmath.gamma(gamma + alpha + 1)
        for m in (1, 2, 7, 199):
            found = (w[0, : m + 1].flip(0) * f[: m + 1]).sum() + (
                start[m] * f[: start.shape[1]]
            ).sum()
            assert float(found) == pytest.approx(float(factor * m ** (gamma + alpha)), rel=1e-10)
    assert not start[0].any()
