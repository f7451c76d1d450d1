"""Rough Heston: paths of price and variance, and the equation of its moment generating function."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .caputo import solve_caputo
from .kernels import PowerKernel
from .march import Progress
from .sde import volterra_paths

#: Steps whose log prices are made together.
_ROWS = 16


class RoughHeston(NamedTuple):
    """``V_t = v0 + 1/Gamma(H + 1/2) int (t - s)**(H - 1/2) (rate (mean - V) ds + vol sqrt(V) dB)``
    and ``dS = S sqrt(V) dW`` with ``dW dB = correlation dt``.

    Source: El Euch and Rosenbaum, The characteristic function of rough Heston models, Mathematical
    Finance 29 (2019); ``vol`` here is their ``lambda nu``.
    """

    v0: float
    mean: float
    rate: float
    vol: float
    correlation: float
    hurst: float

    def check(self) -> None:
        """ValueError that names the parameter."""
        for name in ("v0", "mean", "rate", "vol"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} >= 0, finite, got {getattr(self, name)}")
        if not -1 <= self.correlation <= 1:
            raise ValueError(f"expected -1 <= correlation <= 1, got {self.correlation}")
        if not 0 < self.hurst <= 0.5:
            raise ValueError(f"expected 0 < hurst <= 1/2, got {self.hurst}")


class RoughHestonPaths(NamedTuple):
    """times (N + 1,); log_price, log(S / S_0), and variance V, (N + 1, paths) each.

    The scheme's variance may be below 0, where its square root is taken as 0.
    """

    times: Tensor
    log_price: Tensor
    variance: Tensor


@torch.no_grad()
def rough_heston_paths(
    model: RoughHeston,
    t_end: float,
    steps: int,
    paths: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    impl: str = "auto",
) -> RoughHestonPaths:
    """Paths by Euler's scheme of `volterra_paths`, at most O(N log(N)**2) a path.

    Memory: the result, 16 bytes per step and path in float64, and about as much for the state.
    """
    model.check()
    alpha = model.hurst + 0.5
    log_price = torch.empty(steps + 1, paths, dtype=dtype, device=device)
    log_price[0] = 0

    def normals(begin: int, end: int) -> Tensor:
        size, rho = (2, end - begin, paths), model.correlation
        of_variance, other = torch.randn(size, dtype=dtype, device=device, generator=generator)
        torch.add(rho * of_variance, other, alpha=(1 - rho * rho) ** 0.5,
                  out=log_price[begin + 1 : end + 1])  # fmt: skip
        return of_variance

    found = volterra_paths(
        PowerKernel(alpha, 1 / math.gamma(alpha)),
        lambda t, v: model.rate * (model.mean - v),
        lambda t, v: model.vol * v.clamp(min=0).sqrt(),
        model.v0, t_end, steps, paths, noise=normals, dtype=dtype, device=device,
        progress=progress, impl=impl,
    )  # fmt: skip
    step = t_end / steps
    # block after block, so that what is in between stays in the cache
    for v, change in zip(found.values[:-1].split(_ROWS), log_price[1:].split(_ROWS), strict=True):
        variance = v.clamp(min=0)
        change.mul_((variance * step).sqrt_()).sub_(variance, alpha=step / 2)
    for n in range(steps):
        log_price[n + 1] += log_price[n]
    return RoughHestonPaths(found.times, log_price, found.values)


def log_moment(model: RoughHeston, power: Tensor, t_end: float, steps: int) -> Tensor:
    """``log E[(S_T / S_0)**power]`` by the fractional Riccati equation. power: (n,) float64.

    ``D^alpha h = F(h)``, ``h(0) = 0``, ``F(h) = (p**2 - p)/2 + (p rho vol - rate) h +
    (vol h)**2 / 2``, and the result is the integral of ``rate mean h + v0 F(h)`` (El Euch and
    Rosenbaum 2019, theorem 4.1). Infinite moments make the solution infinite.
    """
    model.check()

    def quadratic(t: float, h: Tensor) -> Tensor:
        slope = power * (model.correlation * model.vol) - model.rate
        return (power * power - power) / 2 + slope * h + model.vol**2 / 2 * h * h

    times, h = solve_caputo(
        quadratic, model.hurst + 0.5, torch.zeros_like(power), t_end, steps, method="bdf2"
    )
    integrand = model.rate * model.mean * h + model.v0 * quadratic(0.0, h)
    return torch.trapezoid(integrand, times, dim=0)
