"""Kernels of integral equations: their integrals over every step, all that a rule needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

#: Gauss-Legendre points on a step. At one step from a power's singularity the error is 6e-16.
POINTS = 10


class Kernel(Protocol):
    """``k(t)`` of the integral of ``k(t - s) f(s) ds``, by its moments."""

    def moments(self, step: float, count: int) -> tuple[Tensor, Tensor]:
        """Integrals of ``k(s)`` and ``(s / step - j) k(s)`` over ``j step <= s <= (j + 1) step``.

        Returns two (G, count) float64, j = 0 .. count-1; G filter rows, 1 where all equations share
        the kernel.
        """

    def first_square(self, step: float) -> Tensor:
        """(G,) float64: integral of ``k(s)**2`` over the first step. For noise only."""


@dataclass(frozen=True)
class PowerKernel:
    """``k(t) = scale t**(alpha - 1)``: weakly singular where ``alpha < 1``.

    alpha, scale: positive and finite; numbers, or (G,) for a filter row per equation.
    """

    alpha: float | Tensor
    scale: float | Tensor = 1.0

    def __post_init__(self) -> None:
        if not bool((_rows(self.alpha) > 0).all()):
            raise ValueError(f"expected alpha > 0, got {self.alpha}")
        if not bool(torch.isfinite(_rows(self.scale) * _rows(self.alpha)).all()):
            raise ValueError(f"expected finite alpha and scale, got {self.alpha}, {self.scale}")

    def moments(self, step: float, count: int) -> tuple[Tensor, Tensor]:
        """See `Kernel`."""
        alpha = _rows(self.alpha)
        zeroth, first = power_moments(alpha - 1, count)
        size = (_rows(self.scale) * step**alpha)[:, None]
        return size * zeroth, size * first

    def first_square(self, step: float) -> Tensor:
        """See `Kernel`. Raises ValueError unless alpha > 1/2: the square has no integral."""
        alpha = _rows(self.alpha)
        if not bool((alpha > 0.5).all()):
            raise ValueError(f"expected alpha > 1/2 for a kernel of noise, got {self.alpha}")
        return _rows(self.scale) ** 2 * step ** (2 * alpha - 1) / (2 * alpha - 1)


@dataclass(frozen=True)
class FunctionKernel:
    """A kernel that is smooth on every step, by quadrature.

    function: (n,) float64 times -> (n,) values, finite at 0.
    """

    function: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        at_zero = self._values(torch.zeros(1, dtype=torch.float64, device="cpu"))
        if not bool(torch.isfinite(at_zero).all()):
            raise ValueError(
                f"expected a kernel that is finite at 0, got k(0) = {float(at_zero)}: a singular "
                "one needs a product rule, PowerKernel or an object with moments(step, count)"
            )

    def moments(self, step: float, count: int) -> tuple[Tensor, Tensor]:
        """See `Kernel`. Raises ValueError where the kernel changes too fast for the steps."""
        zeroth, first = self._moments(step, count, POINTS)
        coarse, _ = self._moments(step, count, POINTS - 3)
        size = zeroth.abs().nan_to_num(0, 0).max()
        wrong = ~((zeroth - coarse).abs() <= 1e-9 * size)  # NaN, too
        if bool(wrong.any()):
            at = int(wrong.int().argmax())
            raise ValueError(
                f"expected a kernel that is smooth on every step of {step:.3g}, got one that "
                f"changes too fast or is not finite after t = {at * step:.3g}: take smaller steps, "
                "or an object with moments(step, count)"
            )
        return zeroth[None], first[None]

    def first_square(self, step: float) -> Tensor:
        """See `Kernel`."""
        x, weights = gauss(POINTS)
        return (step * (weights * self._values(step * x) ** 2).sum())[None]

    def _moments(self, step: float, count: int, points: int) -> tuple[Tensor, Tensor]:
        x, weights = gauss(points)
        t = step * (torch.arange(count, dtype=torch.float64, device="cpu")[:, None] + x)
        values = step * weights * self._values(t.flatten()).reshape(count, points)
        return values.sum(1), (values * x).sum(1)

    def _values(self, t: Tensor) -> Tensor:
        values = self.function(t)
        if not isinstance(values, Tensor) or values.shape != t.shape:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"expected kernel(t) of shape {tuple(t.shape)} like t, got {got}")
        return values.to("cpu", torch.float64)


def as_kernel(kernel: Kernel | Callable[[Tensor], Tensor]) -> Kernel:
    """A function becomes a `FunctionKernel`."""
    if hasattr(kernel, "moments"):
        return cast(Kernel, kernel)
    if callable(kernel):
        return FunctionKernel(kernel)
    raise TypeError(f"expected kernel to be a function or to have moments, got {kernel!r}")


def power_moments(exponent: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Integrals of ``(j + x)**e`` and ``x (j + x)**e`` over ``0 <= x <= 1``, j = 0 .. count-1.

    exponent: (G,) float64. Returns two (G, count). By quadrature, where differences of powers
    would lose ``log2 j`` bits; entries 0, in closed form, mean nothing for ``e <= -1``.
    """
    x, weights = gauss(POINTS)
    j = torch.arange(1, count, dtype=torch.float64, device="cpu")
    zeroth, first = (exponent.new_empty(len(exponent), count) for _ in range(2))
    zeroth[:, 0], first[:, 0] = 1 / (exponent + 1), 1 / (exponent + 2)
    for row, e in enumerate(exponent.tolist()):
        values = weights * (j[:, None] + x) ** e
        zeroth[row, 1:], first[row, 1:] = values.sum(1), values @ x
    return zeroth, first


def gauss(points: int) -> tuple[Tensor, Tensor]:
    """Points and weights of Gauss and Legendre on 0 .. 1, float64."""
    x, weights = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(weights / 2)


def _rows(value: float | Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device="cpu").reshape(-1)
