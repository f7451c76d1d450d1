"""Integral equations with known answers, orders of convergence included."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import erfcx

from futurefill_kernels.volterra import PowerKernel, solve_volterra
from futurefill_kernels.volterra.rules import METHODS
from tests.volterra.orders import errors, order


@pytest.mark.parametrize(("method", "expected"), [*zip(METHODS, (1, 1, 1.5, 1.5), strict=True)])
def test_abel(method, expected):
    """y = 1 - int (t - s)^(-1/2) y ds gives erfcx(sqrt(pi t))."""
    found = errors(
        lambda n: solve_volterra(
            PowerKernel(0.5), lambda t, y: -y, 1.0, 1.0, n, method=method
        ).values[-1],
        0.282059176175683, (512, 1024),
    )  # fmt: skip
    assert order(found) == pytest.approx(expected, abs=0.1)
    assert float(erfcx(math.sqrt(math.pi))) == pytest.approx(0.282059176175683, abs=1e-15)


@pytest.mark.parametrize(("method", "expected"), [*zip(METHODS, (1, 1, 2, 2), strict=True)])
def test_smooth_kernel(method, expected):
    """k = t, f = y: y'' = y, so y = cosh t."""

    def solve(n):
        return solve_volterra(lambda t: t, lambda t, y: y, 1.0, 1.0, n, method=method).values[-1]

    found = errors(solve, math.cosh(1), (100, 200))
    assert order(found) == pytest.approx(expected, abs=0.1)


def test_nonlinear_equation_with_a_moving_right_side():
    """y = g + int e^-(t-s) y^2 ds has y = e^-t where g = e^-t (1 - (1 - e^-t))."""

    def g(t):
        return torch.tensor([math.exp(-2 * t)], dtype=torch.float64)

    found = solve_volterra(lambda t: torch.exp(-t), lambda t, y: y**2, g, 2.0, 400)
    torch.testing.assert_close(found.values[:, 0], torch.exp(-found.times), rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_for_every_kernel(method):
    alpha = torch.tensor([0.4, 1.2], dtype=torch.float64)
    scale = torch.tensor([1.0, 0.5], dtype=torch.float64)
    g = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    whole = solve_volterra(PowerKernel(alpha, scale), lambda t, y: -y, g, 1.0, 50, method=method)
    for row in range(2):
        one = solve_volterra(
            PowerKernel(float(alpha[row]), float(scale[row])), lambda t, y: -y, g[row], 1.0, 50,
            method=method,
        )  # fmt: skip
        torch.testing.assert_close(whole.values[:, row], one.values, rtol=0, atol=1e-10)


class _Moments:
    def __init__(self, shape, value=1.0):
        self.shape, self.value = shape, value

    def moments(self, step, count):
        return (torch.full((*self.shape, count), self.value, dtype=torch.float64),) * 2


BAD = [
    ({"kernel": lambda t: t**-0.5}, r"finite at 0, got k\(0\) = inf"),
    ({"kernel": _Moments((), 1.0)}, r"expected moments of the kernel \(G, 11\), finite"),
    ({"kernel": _Moments((1,), float("inf"))}, "finite"),
    (
        {"kernel": PowerKernel(torch.tensor([0.5, 0.6]))},
        r"with G = 2, the kernel's rows, got \(3,\)",
    ),
    ({"method": "bdf2"}, "expected method to be one of rectangle"),
    ({"g": lambda t: torch.ones(3 if t < 0.5 else 2).double()}, r"expected g \(3,\)"),
    ({"f": lambda t, y: y[0]}, r"expected f\(t, y\) \(3,\)"),
]


@pytest.mark.parametrize(("changed", "text"), BAD)
def test_bad_arguments(changed, text):
    good = {"kernel": PowerKernel(0.5), "f": lambda t, y: -y, "g": torch.ones(3).double(),
            "t_end": 1.0, "steps": 10}  # fmt: skip
    with pytest.raises(ValueError, match=text):
        solve_volterra(**{**good, **changed})
