"""Hawkes counts against direct sums and the Volterra equation of their mean."""

from __future__ import annotations

import math

import pytest
import torch

from futurefill_kernels.volterra import hawkes_paths, solve_volterra


def omori(t):
    """Branching ratio 0.7, tail t^-0.6."""
    return 0.7 * 0.6 * 0.3**0.6 * (t + 0.3) ** -1.6


def test_intensity_is_the_sum_over_earlier_counts():
    found = hawkes_paths(omori, 5.0, 3.0, 60, 9, generator=torch.Generator().manual_seed(1))
    step = 0.05
    ends = step * torch.arange(61, dtype=torch.float64)
    tail = 0.7 * 0.3**0.6 * (ends + 0.3) ** -0.6
    children = (tail[:-1] - tail[1:]) / step
    for n in range(60):
        expected = 5.0 + (children[:n].flip(0)[:, None] * found.counts[:n]).sum(0)
        torch.testing.assert_close(found.intensity[n], expected, rtol=1e-12, atol=1e-12)
    assert (found.counts == found.counts.round()).all()
    assert found.times[-1] == pytest.approx(3.0)


def test_mean_intensity_solves_its_equation():
    paths, steps = 8000, 200
    found = hawkes_paths(omori, 5.0, 10.0, steps, paths, generator=torch.Generator().manual_seed(2))
    exact = solve_volterra(omori, lambda t, y: y, 5.0, 10.0, steps).values
    for n in (50, 100, 199):
        spread = float(found.intensity[n].std()) / math.sqrt(paths)
        # a bin's intensity is that at its beginning, and Euler's rule is of order 1
        assert float(found.intensity[n].mean()) == pytest.approx(
            float(exact[n]), abs=4 * spread + 0.02
        )
    total = found.counts.sum(0)
    expected = torch.trapezoid(exact, dx=10.0 / steps)
    assert float(total.mean()) == pytest.approx(
        float(expected), abs=4 * float(total.std()) / math.sqrt(paths) + 0.3
    )


def test_no_baseline_no_events_and_a_moving_one():
    assert not hawkes_paths(omori, 0.0, 1.0, 20, 3).counts.any()
    found = hawkes_paths(omori, lambda t: 100.0 * (t >= 0.5), 1.0, 20, 3)
    assert not found.counts[:10].any()
    assert found.counts[10:].sum() > 0


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"kernel": lambda t: -omori(t)}, "kernel of one filter row that is not negative"),
        ({"baseline": -1.0}, "expected baseline >= 0, got -1.0 at t = 0"),
        ({"baseline": lambda t: float("nan")}, "expected baseline >= 0, got nan"),
        ({"paths": 0}, "expected paths >= 1"),
        ({"kernel": lambda t: t**-0.5}, "finite at 0"),
    ],
)
def test_bad_arguments(changed, text):
    good = {"kernel": omori, "baseline": 1.0, "t_end": 1.0, "steps": 5, "paths": 3}
    with pytest.raises(ValueError, match=text):
        hawkes_paths(**{**good, **changed})
