"""Stochastic equations against moments in closed form, direct sums and single paths."""

from __future__ import annotations

import math

import pytest
import torch

from futurefill_kernels.volterra import PowerKernel, volterra_paths
from futurefill_kernels.volterra.kernels import FunctionKernel
from futurefill_kernels.volterra.sde import euler_weights


def normals(steps, paths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, paths, generator=generator, dtype=torch.float64)


def test_equals_direct_sums():
    kernel, steps, paths, step = PowerKernel(0.6), 50, 11, 0.02
    z = normals(steps, paths)
    found = volterra_paths(
        kernel, lambda t, x: t - x, lambda t, x: 0.3 * x, 1.0, 1.0, steps, paths,
        noise=lambda begin, end: z[begin:end],
    ).values  # fmt: skip
    mean, excess = euler_weights(kernel, step, steps)
    x, inputs = torch.ones(paths, dtype=torch.float64), []
    for n in range(steps):
        shock = 0.3 * x * z[n] * math.sqrt(step)
        inputs.append((n * step - x) * step + shock)
        x = 1 + sum(mean[0, n - i] * u for i, u in enumerate(inputs)) + excess * shock
        torch.testing.assert_close(found[n + 1], x, rtol=0, atol=1e-12)


def test_the_newest_noise_has_the_kernels_mean_square():
    mean, excess = euler_weights(PowerKernel(0.6), 0.01, 3)
    exact = 0.01**0.2 / 0.2  # integral of t^(-0.8)
    assert 0.01 * (float(mean[0, 0]) + excess) ** 2 == pytest.approx(exact)


@pytest.mark.parametrize("alpha", [0.6, 1.0, 1.3])
def test_variance_of_a_gaussian_process(alpha):
    """Riemann-Liouville noise: X_1 has variance 1 / (2 alpha - 1), whatever the step."""
    paths = 40_000
    found = volterra_paths(
        PowerKernel(alpha), lambda t, x: torch.zeros_like(x), lambda t, x: torch.ones_like(x),
        0.0, 1.0, 64, paths, generator=torch.Generator().manual_seed(3),
    ).values[-1]  # fmt: skip
    exact = 1 / (2 * alpha - 1)
    assert float(found.var()) == pytest.approx(exact, rel=4 * math.sqrt(2 / paths) + 0.005)
    assert abs(float(found.mean())) < 4 * math.sqrt(exact / paths)


def test_constant_kernel_is_euler_and_maruyama():
    steps, paths = 40, 5
    z = normals(steps, paths)
    found = volterra_paths(
        FunctionKernel(torch.ones_like), lambda t, x: -x, lambda t, x: 0.5 + 0 * x,
        lambda t: torch.full((paths,), 2.0 + t, dtype=torch.float64), 1.0, steps, paths,
        noise=lambda begin, end: z[begin:end],
    )  # fmt: skip
    y = torch.zeros(paths, dtype=torch.float64)
    for n, t in enumerate(found.times.tolist()[:-1]):
        y = y - (2 + t + y) / steps + 0.5 * z[n] / math.sqrt(steps)
    torch.testing.assert_close(found.values[-1], 3 + y, rtol=0, atol=1e-12)


def test_nan_stays_in_its_path():
    z = normals(300, 20)
    broken = z.clone()
    broken[100, 13] = float("nan")
    runs = [
        volterra_paths(
            PowerKernel(0.7), lambda t, x: -x, lambda t, x: x, 1.0, 1.0, 300, 20,
            noise=lambda begin, end, given=given: given[begin:end],
        ).values
        for given in (z, broken)
    ]  # fmt: skip
    assert runs[1][101:, 13].isnan().all()
    others = torch.arange(20) != 13
    torch.testing.assert_close(runs[1][:, others], runs[0][:, others], rtol=0, atol=0)


BAD = [
    ({"kernel": PowerKernel(0.4)}, "alpha > 1/2 for a kernel of noise"),
    ({"kernel": PowerKernel(torch.tensor([0.6, 0.7]))}, "one filter row for paths, got 2"),
    ({"paths": 0}, "expected paths >= 1"),
    ({"steps": 0}, "expected steps >= 1"),
    ({"drift": lambda t, x: x[:1]}, r"expected f\(t, y\) \(3,\)"),
    ({"noise": lambda begin, end: torch.zeros(1, 3)}, r"expected noise \(5, 3\) in torch.float64"),
    ({"x0": torch.ones(2).double()}, r"expected x0 \(3,\)"),
]


@pytest.mark.parametrize(("changed", "text"), BAD)
def test_bad_arguments(changed, text):
    good = {"kernel": PowerKernel(0.6), "drift": lambda t, x: -x, "diffusion": lambda t, x: x,
            "x0": 1.0, "t_end": 1.0, "steps": 5, "paths": 3}  # fmt: skip
    with pytest.raises(ValueError, match=text):
        volterra_paths(**{**good, **changed})
