"""Packages and direct sums that solve ``D^(1/2) y = -rates y``, ``y(0) = 1``, up to ``t = 1``.

All but torchfde's are the predictor-corrector of Diethelm, Ford and Freed in float64: the same
numbers at O(n**2). rates: (E,) float64, one for each equation. Each returns y(1), (E,).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ALPHA = 0.5


class Peer(NamedTuple):
    """module: what must be installed. most: steps that are run, of one equation and of several;
    more are scaled. same: whether its error is that of the same method.
    """

    name: str
    module: str
    most: tuple[int, int]
    solve: Callable[[Tensor, int], Tensor]
    same: bool = True

    def unavailable(self) -> str | None:
        """Why it cannot run."""
        return None if importlib.util.find_spec(self.module) else "not installed"


def weights(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps,) predictor weights of f_{n-1}, ...; corrector weights likewise; those of f_0."""
    j = np.arange(1, steps + 1, dtype=np.float64)
    predictor = (j**ALPHA - (j - 1) ** ALPHA) / math.gamma(ALPHA + 1)
    p = ALPHA + 1
    corrector = ((j + 1) ** p - 2 * j**p + (j - 1) ** p) / math.gamma(ALPHA + 2)
    oldest = ((j - 1) ** p - (j - 1 - ALPHA) * j**ALPHA) / math.gamma(ALPHA + 2)
    size = (1 / steps) ** ALPHA
    return size * predictor, size * corrector, size * oldest


def direct_numpy(rates: Tensor, steps: int) -> Tensor:
    """Two vector-matrix products per step over everything so far."""
    b, a, oldest = weights(steps)
    b, a = b[::-1].copy(), a[::-1].copy()
    rate, newest = rates.numpy(), steps**-ALPHA / math.gamma(ALPHA + 2)
    f = np.empty((steps + 1, len(rate)))
    y = np.ones(len(rate))
    f[0] = -rate * y
    for n in range(1, steps + 1):
        predicted = 1 + b[steps - n :] @ f[:n]
        known = 1 + oldest[n - 1] * f[0] + a[steps - n + 1 :] @ f[1:n]
        y = known - newest * rate * predicted
        f[n] = -rate * y
    return torch.from_numpy(y)


def direct_torch(rates: Tensor, steps: int) -> Tensor:
    """The same in torch, both sums in one product."""
    b, a, oldest = (torch.from_numpy(w) for w in weights(steps))
    taps = torch.stack([b, a]).flip(1).contiguous()
    newest, first = steps**-ALPHA / math.gamma(ALPHA + 2), oldest - a
    f = rates.new_empty(steps + 1, len(rates))
    f[0] = -rates
    y = torch.ones_like(rates)
    for n in range(1, steps + 1):
        sums = 1 + taps[:, steps - n :] @ f[:n]
        y = sums[1] + first[n - 1] * f[0] - newest * rates * sums[0]
        torch.mul(rates, -y, out=f[n])
    return y


def fdeint(rates: Tensor, steps: int) -> Tensor:
    """FDEint (PyPI: fdeint): batches in torch."""
    from FDEint import FDEint

    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    y0 = torch.ones(len(rates), 1, dtype=torch.float64)
    with torch.no_grad():
        y = FDEint(lambda t, y: -rates[:, None] * y, t, y0, ALPHA, dtype=torch.float64)
    return y[:, -1, 0]


def pycaputo(rates: Tensor, steps: int) -> Tensor:
    """pycaputo (PyPI): numpy, an order for every component."""
    from pycaputo.controller import make_fixed_controller
    from pycaputo.derivatives import CaputoDerivative
    from pycaputo.events import StepCompleted
    from pycaputo.fode.caputo import PECE
    from pycaputo.stepping import evolve

    rate = rates.numpy()
    method = PECE(
        ds=(CaputoDerivative(ALPHA),) * len(rate),
        control=make_fixed_controller(1 / steps, tstart=0.0, tfinal=1.0),
        source=lambda t, y: -rate * y, y0=(np.ones(len(rate)),), corrector_iterations=1,
    )  # fmt: skip
    y = np.ones(len(rate))
    for event in evolve(method, dtinit=1 / steps):
        if isinstance(event, StepCompleted):
            y = event.y
    return torch.from_numpy(y)


def torchfde(rates: Tensor, steps: int) -> Tensor:
    """torchfde (a repository, not on PyPI): weights in float32, a Python loop over the history."""
    from torchfde.fdeint import fdeint as solve

    return solve(
        lambda t, y: -rates[:, None] * y, torch.ones(len(rates), 1, dtype=torch.float64),
        torch.tensor(ALPHA), torch.tensor(1.0), torch.tensor(1 / steps), "corrector",
    )[:, 0]  # fmt: skip


PEERS = (
    Peer("direct sums, numpy", "numpy", (131072, 131072), direct_numpy),
    Peer("direct sums, torch", "torch", (131072, 131072), direct_torch),
    Peer("FDEint", "FDEint", (32768, 16384), fdeint),
    Peer("pycaputo", "pycaputo", (32768, 2048), pycaputo),
    Peer("torchfde", "torchfde", (256, 128), torchfde, same=False),
)
