"""Fractional equations with known answers, orders of convergence included."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from futurefill_kernels.volterra import solve_caputo
from futurefill_kernels.volterra.caputo import METHODS
from tests.volterra.orders import errors, order

IMPLICIT = ("implicit-rectangle", "trapezoid", "grunwald-letnikov", "l1", "bdf2")


def mittag_leffler(alpha: float, z: float) -> float:
    """E_alpha(z) by its series in many digits."""
    with mpmath.workdps(80):
        a = mpmath.mpf(alpha)
        return float(
            mpmath.nsum(lambda k: mpmath.mpf(z) ** k / mpmath.gamma(a * k + 1), [0, mpmath.inf])
        )


def decay(t: float, y: Tensor) -> Tensor:
    return -y


#: method -> (order shown by D^(1/2) y = -y, largest error of y(1) with 512 steps)
HALF = {
    "rectangle": (1.0, 2e-4),
    "implicit-rectangle": (1.0, 2e-4),
    "predictor-corrector": (1.5, 3e-6),
    "trapezoid": (1.5, 3e-6),
    "grunwald-letnikov": (1.0, 2e-4),
    "l1": (1.0, 2e-4),
    "bdf2": (2.0, 1e-7),
}


@pytest.mark.parametrize("method", METHODS)
def test_half_derivative_gives_erfcx(method):
    """y = erfcx(sqrt(t)); steps are uniform and y has a root at 0, so L1 is of order 1."""
    found = errors(
        lambda n: solve_caputo(decay, 0.5, 1.0, 1.0, n, method=method).values[-1],
        0.427583576155807, (256, 512),
    )  # fmt: skip
    expected, largest = HALF[method]
    assert order(found) == pytest.approx(expected, abs=0.1)
    assert found[-1] < largest


@pytest.mark.parametrize("alpha", [0.2, 0.7, 1.3, 1.9])
@pytest.mark.parametrize(("method", "largest"), [("predictor-corrector", 4e-3), ("bdf2", 3e-4)])
def test_mittag_leffler(alpha, method, largest):
    found = solve_caputo(decay, alpha, 1.0, 2.0, 800, method=method)
    exact = [mittag_leffler(alpha, -(t**alpha)) for t in (0.5, 1.0, 2.0)]
    torch.testing.assert_close(
        found.values[[200, 400, 800]],
        torch.tensor(exact, dtype=torch.float64),
        rtol=0,
        atol=largest,
    )


def diethelm_ford_freed(alpha: float):
    """Their nonlinear problem, y = t^8 - 3 t^(4 + alpha/2) + 9/4 t^alpha, y(1) = 1/4.

    Source: Diethelm, Ford and Freed, Numerical Algorithms 36 (2004), section 5.
    """
    first = 40320 / math.gamma(9 - alpha)
    second = 3 * math.gamma(5 + alpha / 2) / math.gamma(5 - alpha / 2)
    third = 9 / 4 * math.gamma(alpha + 1)

    def f(t: float, y: Tensor) -> Tensor:
        known = first * t ** (8 - alpha) - second * t ** (4 - alpha / 2) + third
        return known + (1.5 * t ** (alpha / 2) - t**4) ** 3 - y.abs() ** 1.5

    return f


@pytest.mark.parametrize(
    ("method", "alpha", "expected"),
    [
        ("rectangle", 0.5, 1), ("rectangle", 1.25, 1), ("implicit-rectangle", 0.9, 1),
        ("predictor-corrector", 0.9, 1.95), ("predictor-corrector", 1.25, 2),
        ("trapezoid", 0.5, 2), ("trapezoid", 1.6, 2), ("grunwald-letnikov", 0.5, 1),
        ("grunwald-letnikov", 1.25, 1), ("bdf2", 0.5, 2), ("bdf2", 0.9, 2), ("bdf2", 1.25, 2),
    ],
)  # fmt: skip
def test_nonlinear_problem(method, alpha, expected):
    f = diethelm_ford_freed(alpha)
    found = errors(
        lambda n: solve_caputo(f, alpha, 0.0, 1.0, n, method=method).values[-1], 0.25, (160, 320)
    )  # fmt: skip
    assert order(found) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(("alpha", "expected"), [(0.3, 1.7), (0.5, 1.5), (0.8, 1.2)])
def test_l1_is_of_order_2_minus_alpha_where_y_is_smooth(alpha, expected):
    factor = 6 / math.gamma(4 - alpha)  # D^alpha t^3

    def f(t: float, y: Tensor) -> Tensor:
        return factor * t ** (3 - alpha) + t**3 - y

    found = errors(
        lambda n: solve_caputo(f, alpha, 0.0, 1.0, n, method="l1").values[-1], 1.0, (400, 800)
    )
    assert order(found) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "l1"])
def test_alpha_1_is_an_ordinary_equation(method):
    found = solve_caputo(decay, 1.0, 1.0, 1.0, 200, method=method).values[-1]
    assert float(found) == pytest.approx(math.exp(-1), abs=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_equations(method):
    """Orders, initial values, parameters and slopes of their own; a system of two in each."""
    # orders that need as many starting weights alone as together
    orders = [0.5, 0.6, 0.9] if method in ("l1", "bdf2") else [0.4, 0.7, 1.6]
    alpha = torch.tensor(orders, dtype=torch.float64)
    y0 = torch.tensor([[1.0, 0.2], [0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
    dy0 = torch.tensor([[0.3, 0.1]] * 3, dtype=torch.float64)
    rate = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)

    def rhs(rate: Tensor):
        return lambda t, y: -rate * y + 0.1 * y.flip(-1)

    whole = solve_caputo(rhs(rate), alpha, y0, 1.0, 40, method=method, dy0=dy0)
    for e in range(3):
        one = solve_caputo(rhs(rate[e]), float(alpha[e]), y0[e], 1.0, 40, method=method, dy0=dy0[e])
        torch.testing.assert_close(whole.values[:, e], one.values, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", IMPLICIT)
def test_newton_equals_the_fixed_point_and_a_given_jacobian(method):
    matrix = torch.tensor([[-1.0, 0.5], [0.2, -2.0]], dtype=torch.float64)
    y0 = torch.tensor([[1.0, 0.0], [0.3, 0.4]], dtype=torch.float64)

    def f(t: float, y: Tensor) -> Tensor:
        return y @ matrix.T - y**3

    def jacobian(t: float, y: Tensor) -> Tensor:
        return matrix - torch.diag_embed(3 * y**2)

    runs = [
        solve_caputo(f, 0.8, y0, 1.0, 60, method=method, solver=solver, jacobian=given).values
        for solver, given in (("fixed-point", None), ("newton", None), ("newton", jacobian))
    ]
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(runs[2], runs[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", IMPLICIT)
def test_newton_solves_what_a_fixed_point_cannot(method):
    def stiff(t: float, y: Tensor) -> Tensor:
        return -1000 * (y - 1)

    with pytest.raises(RuntimeError, match=r"implicit step.*did not converge.*residual"):
        solve_caputo(stiff, 0.6, 0.0, 1.0, 50, method=method)
    for jacobian in (None, lambda t, y: torch.full_like(y, -1000.0)):
        found = solve_caputo(
            stiff, 0.6, 0.0, 1.0, 50, method=method, solver="newton", jacobian=jacobian
        )
        assert float(found.values[-1]) == pytest.approx(1, abs=2e-3)


def test_numbers_and_lists_become_float64():
    found = solve_caputo(decay, 1.5, [1.0, 2.0], 1.0, 8, dy0=0.5).values
    given = torch.tensor([1.0, 2.0], dtype=torch.float64)
    slope = torch.full((2,), 0.5, dtype=torch.float64)
    assert torch.equal(found, solve_caputo(decay, 1.5, given, 1.0, 8, dy0=slope).values)


def test_more_corrections_approach_the_implicit_rule():
    def at_end(corrections: int) -> float:
        return float(solve_caputo(decay, 0.5, 1.0, 1.0, 100, corrections=corrections).values[-1])

    implicit = float(solve_caputo(decay, 0.5, 1.0, 1.0, 100, method="trapezoid").values[-1])
    assert abs(at_end(1) - implicit) > 1e-7
    assert at_end(14) == pytest.approx(implicit, abs=1e-13)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps(method, steps):
    if method == "bdf2" and steps == 1:
        with pytest.raises(ValueError, match="expected steps >= 2 for 'bdf2' and this alpha"):
            solve_caputo(decay, 0.5, 1.0, 0.01, steps, method=method)
        return
    found = solve_caputo(decay, 0.5, 1.0, 0.01, steps, method=method)
    assert found.values.shape == found.times.shape == (steps + 1,)
    assert float(found.values[-1]) == pytest.approx(0.8965, abs=0.025)


@pytest.mark.parametrize("method", METHODS)
def test_nan_stays_in_its_path(method):
    def f(t: float, y: Tensor) -> Tensor:
        broken = torch.zeros_like(y)
        broken[7] = float("nan") if t > 0.5 else 0.0
        return -y + broken

    y0 = torch.linspace(0.5, 1.5, 33, dtype=torch.float64)
    found = solve_caputo(f, 0.5, y0, 1.0, 64, method=method).values
    clean = solve_caputo(decay, 0.5, y0, 1.0, 64, method=method).values
    others = torch.arange(33) != 7
    assert found[40:, 7].isnan().all()
    torch.testing.assert_close(found[:, others], clean[:, others], rtol=0, atol=1e-12)


def test_float32_is_as_good_as_its_digits():
    y0 = torch.ones(3, dtype=torch.float32)
    low = solve_caputo(decay, 0.5, y0, 1.0, 2048).values
    high = solve_caputo(decay, 0.5, y0.double(), 1.0, 2048).values
    assert low.dtype == torch.float32
    assert float((low - high).abs().max()) < 3e-6


def test_progress_and_gradients():
    seen = []
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    found = solve_caputo(decay, 0.5, y0, 1.0, 600, progress=lambda *a: seen.append(a))
    assert seen == [(256, 600), (512, 600), (600, 600)]
    assert not found.values.requires_grad


BAD = [
    ({"alpha": 0.0}, ValueError, r"expected 0 < alpha < 2 for 'predictor-corrector', got 0.0"),
    ({"alpha": 2.0}, ValueError, "expected 0 < alpha < 2"),
    ({"alpha": float("nan")}, ValueError, "expected 0 < alpha < 2"),
    ({"alpha": 1.2, "method": "l1"}, ValueError, "expected 0 < alpha < 1 for 'l1', got 1.2"),
    ({"alpha": torch.tensor([0.5, 0.6])}, ValueError, r"dimensions of y0 \(3,\), got \(2,\)"),
    ({"method": "euler"}, ValueError, "expected method to be one of rectangle, .*, got 'euler'"),
    ({"solver": "bisection"}, ValueError, "expected solver to be 'fixed-point' or 'newton'"),
    ({"tolerance": 0.0}, ValueError, "expected tolerance > 0"),
    ({"max_iterations": 0}, ValueError, "expected max_iterations >= 1"),
    ({"corrections": 0}, ValueError, "expected corrections >= 1"),
    ({"t_end": 0.0}, ValueError, "expected 0 < t_end"),
    ({"steps": 0}, ValueError, "expected steps >= 1"),
    ({"y0": torch.ones(3, dtype=torch.int64)}, TypeError, "expected y0 in float64 or float32"),
    ({"y0": torch.ones(0)}, ValueError, "no empty dimension"),
    ({"dy0": torch.ones(2).double()}, ValueError, r"expected dy0 \(3,\) in torch.float64 like y0"),
    ({"dy0": [1.0, 2.0]}, ValueError, r"expected dy0 \(3,\) in torch.float64 like y0, got \(2,\)"),
    ({"f": lambda t, y: y[:2]}, ValueError, r"expected f\(t, y\) \(3,\).*got \(2,\)"),
    ({"f": lambda t, y: y.float()}, ValueError, "in torch.float64 .*got .* in torch.float32"),
    ({"f": lambda t, y: 1.0}, TypeError, "to return a tensor, got float"),
    (
        {"method": "trapezoid", "solver": "newton", "jacobian": lambda t, y: y[:2]},
        ValueError, r"expected jacobian\(t, y\) \(3, 3\) or \(3,\), got \(2,\)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "error", "text"), BAD)
def test_bad_arguments(changed, error, text):
    good = {"f": decay, "alpha": 0.5, "y0": torch.ones(3).double(), "t_end": 1.0, "steps": 10}
    with pytest.raises(error, match=text):
        solve_caputo(**{**good, **changed})


def test_no_convergence_names_step_and_residual():
    def f(t: float, y: Tensor) -> Tensor:
        return -y if t < 0.25 else -1e4 * y

    with pytest.raises(
        RuntimeError, match=r"implicit step 5 \(t = 0\.25\).*iterations: residual .*, 1 of 1"
    ):
        solve_caputo(f, 0.5, 1.0, 1.0, 20, method="trapezoid")


@pytest.mark.parametrize("method", ["trapezoid", "bdf2"])
def test_an_iteration_that_overflows_is_no_lost_path(method):
    """It would end as NaN, which is what a path that broke before looks like."""
    with pytest.raises(RuntimeError, match=r"implicit step.*did not converge.*1 of [36]"):
        solve_caputo(
            lambda t, y: torch.tensor([-1.0, -1e9, -2.0]).double() * y**3, 0.5,
            torch.ones(3).double(), 1.0, 50, method=method,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_long_runs_keep_their_order(method):
    found = errors(
        lambda n: solve_caputo(decay, 0.5, 1.0, 1.0, n, method=method).values[-1],
        0.427583576155807, (8192, 16384),
    )  # fmt: skip
    assert order(found) == pytest.approx(HALF[method][0], abs=0.1)
