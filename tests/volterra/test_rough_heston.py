"""Rough Heston's mean and variance against its Riccati equation."""

from __future__ import annotations

import math

import pytest
import torch

from futurefill_kernels.volterra import RoughHeston, log_moment, rough_heston_paths

# variance seldom reaches 0, where the scheme cuts the square root off
CALM = RoughHeston(v0=0.04, mean=0.06, rate=1.0, vol=0.08, correlation=-0.6, hurst=0.15)


def cumulants(model, t_end, steps):
    """Mean and variance of the log price, by differences of log E[S^p]."""
    e = 0.01
    below, at, above = log_moment(model, torch.tensor([-e, 0.0, e]).double(), t_end, steps).tolist()
    return (above - below) / (2 * e), (above + below - 2 * at) / e**2


def test_riccati_of_the_classical_model_has_hestons_closed_form():
    """H = 1/2; Heston, Review of Financial Studies 6 (1993), in the form without branch cuts."""
    model = CALM._replace(hurst=0.5, vol=0.3)
    p, t = 0.5, 1.5
    b = model.rate - model.correlation * model.vol * p
    d = math.sqrt(b * b - model.vol**2 * (p * p - p))
    g = (b - d) / (b + d)
    decay = math.exp(-d * t)
    slope = (b - d) / model.vol**2 * (1 - decay) / (1 - g * decay)
    level = (b - d) * t - 2 * math.log((1 - g * decay) / (1 - g))
    expected = model.v0 * slope + model.rate * model.mean / model.vol**2 * level
    found = log_moment(model, torch.tensor([p]).double(), t, 2000)
    assert float(found) == pytest.approx(expected, abs=2e-8)


def test_price_is_a_martingale_and_moments_converge():
    found = log_moment(CALM, torch.tensor([0.0, 1.0]).double(), 1.0, 100)
    assert found.abs().max() < 1e-14
    coarse, fine = (torch.tensor(cumulants(CALM, 1.0, n)) for n in (200, 800))
    torch.testing.assert_close(coarse, fine, rtol=3e-5, atol=0)


def test_mean_and_variance_of_paths():
    paths = 40_000
    found = rough_heston_paths(CALM, 1.0, 128, paths, generator=torch.Generator().manual_seed(5))
    mean, variance = cumulants(CALM, 1.0, 400)
    x = found.log_price[-1]
    assert float(x.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / paths))
    kurtosis = float(((x - x.mean()) ** 4).mean() / x.var() ** 2)
    assert float(x.var()) == pytest.approx(
        variance, rel=4 * math.sqrt((kurtosis - 1) / paths) + 0.004
    )
    martingale = x.exp()
    assert float(martingale.mean()) == pytest.approx(
        1, abs=4 * float(martingale.std()) / paths**0.5
    )


def test_shapes_and_seeds():
    runs = [
        rough_heston_paths(CALM, 1.0, 300, 7, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    for run in runs:
        assert run.times.shape == (301,)
        assert run.log_price.shape == run.variance.shape == (301, 7)
        assert not run.log_price[0].any()
        assert (run.variance[0] == 0.04).all()
    assert torch.equal(runs[0].variance, runs[1].variance)
    assert not torch.equal(runs[0].variance, runs[2].variance)
    low = rough_heston_paths(CALM, 1.0, 9, 7, dtype=torch.float32)
    assert low.log_price.dtype == low.variance.dtype == torch.float32


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"hurst": 0.0}, "expected 0 < hurst <= 1/2, got 0.0"),
        ({"hurst": 0.6}, "expected 0 < hurst"),
        ({"correlation": -1.5}, "expected -1 <= correlation <= 1"),
        ({"v0": -1.0}, "expected v0 >= 0"),
        ({"vol": float("nan")}, "expected vol >= 0"),
    ],
)
def test_bad_parameters(changed, text):
    with pytest.raises(ValueError, match=text):
        rough_heston_paths(CALM._replace(**changed), 1.0, 10, 3)


@pytest.mark.slow
def test_bias_of_a_model_whose_variance_reaches_zero_falls_with_the_step():
    model = RoughHeston(v0=0.04, mean=0.04, rate=0.3, vol=0.3, correlation=-0.7, hurst=0.1)
    _, variance = cumulants(model, 1.0, 1000)
    found = []
    for steps in (32, 1024):
        paths = rough_heston_paths(
            model, 1.0, steps, 20_000, generator=torch.Generator().manual_seed(1)
        )
        found.append(float(paths.log_price[-1].var()) / variance - 1)
    assert abs(found[1]) < 0.12
    assert found[1] < found[0] - 0.04
