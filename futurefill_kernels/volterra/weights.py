"""Weights of fractional integrals and derivatives on a grid of unit steps.

All take alpha (G,) float64, a row for each, and return (G, count) float64. For steps ``h`` an
integral's weights are multiplied by ``h**alpha``, a derivative's by ``h**-alpha``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels import power_moments

#: Terms of (1 - z/3)**beta: the next one is below 1e-19 of the first.
_TERMS = 40


def grunwald_letnikov(alpha: Tensor, count: int) -> Tensor:
    """Coefficients of ``(1 - z)**alpha``: the derivative of order alpha, an integral for -alpha.

    Source: Podlubny, Fractional Differential Equations (1999), 7.1; order 1.
    """
    j = torch.arange(1, count, dtype=torch.float64, device="cpu")
    factors = alpha.new_ones(len(alpha), count)
    factors[:, 1:] = 1 - (alpha[:, None] + 1) / j
    return factors.cumprod(1)


def l1(alpha: Tensor, count: int) -> Tensor:
    """Caputo's derivative, 0 < alpha < 1, of the polygon through values that begin with 0.

    Source: Oldham and Spanier, The Fractional Calculus (1974), 8.2; order 2 - alpha for smooth
    values (Lin and Xu, J. Comput. Phys. 225, 2007).
    """
    p = 1 - alpha  # second differences of j**p, as an integral over their hat function
    zeroth, first = power_moments(p - 2, count)
    weights = torch.ones_like(zeroth)
    weights[:, 1:] = (p * (p - 1))[:, None] * (zeroth[:, 1:] - first[:, 1:] + first[:, :-1])
    weights[:, 1:2] = (2**p - 2)[:, None]
    return weights * torch.exp(-torch.lgamma(1 + p))[:, None]


def rectangle(moments: tuple[Tensor, Tensor]) -> Tensor:
    """Product rectangle rule: entry j multiplies the value at one end of the step j steps back.

    moments: of `Kernel.moments`. Source: Linz, Analytical and Numerical Methods for Volterra
    Equations (1985), 8.2; order 1.
    """
    return moments[0]


def trapezoid(moments: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Product trapezoid rule: convolution weights and the correction of the first value.

    moments: of `Kernel.moments`, (G, n) each. Returns two (G, n): the integral up to step m is
    ``sum_{j=0..m} w_j f_{m-j} + c_m f_0``, for ``m < n``. For a power kernel these are the weights
    of the corrector of Diethelm, Ford and Freed (Nonlinear Dynamics 29, 2002). Order 2.
    """
    zeroth, first = moments
    weights = zeroth - first
    correction = -weights
    weights = weights.clone()
    weights[:, 1:] += first[:, :-1]
    correction[:, 0] = -weights[:, 0]  # no integral yet
    return weights, correction


def bdf2(alpha: Tensor, count: int) -> Tensor:
    """Convolution quadrature of BDF2: coefficients of ``((1 - z)(3 - z) / 2)**-alpha``.

    The integral of order alpha, the derivative for -alpha. Source: Lubich, SIAM J. Math. Anal. 17
    (1986); order 2 with `starting`.
    """
    slow = grunwald_letnikov(-alpha, count)
    j = torch.arange(1, _TERMS, dtype=torch.float64, device="cpu")
    fast = alpha.new_ones(len(alpha), _TERMS)
    fast[:, 1:] = (1 + (alpha[:, None] - 1) / j) / 3
    fast = fast.cumprod(1)
    weights = torch.zeros_like(slow)
    for k in range(min(_TERMS, count)):
        weights[:, k:] += fast[:, k : k + 1] * slow[:, : count - k]
    return weights * (1.5**-alpha)[:, None]


def exponents(alpha: Tensor) -> Tensor:
    """(G, s): the powers ``t**(k + l alpha)`` up to t**1 that solutions have at 0, ascending.

    Where rows need different numbers of them, the next powers fill up.
    """
    lists = []
    for a in alpha.tolist():
        found = sorted({round(k + n * a, 12) for k in range(4) for n in range(int(4 / a) + 1)})
        lists.append([e for e in found if e <= 3])
    needed = max(sum(e <= 1 + 1e-9 for e in found) for found in lists)
    return torch.tensor([found[:needed] for found in lists], dtype=torch.float64, device="cpu")


def starting(alpha: Tensor, weights: Tensor) -> Tensor:
    """Weights of the first values that make an integral exact for the powers of `exponents`.

    weights: (G, n) of `bdf2`. Returns (G, n, s): added to ``sum_j w_j f_{m-j}`` at step m they
    multiply f_0 .. f_{s-1}. Row 0 is zero. Source: Lubich (1986), 4; on their rounding errors
    Diethelm, Ford, Ford and Weilbeer, J. Comput. Appl. Math. 186 (2006).
    """
    gammas = exponents(alpha)
    count, s = weights.shape[1], gammas.shape[1]
    m = torch.arange(count, dtype=torch.float64, device="cpu")
    power = m ** gammas[:, :, None]  # (G, s, n), 0**0 = 1
    a = alpha[:, None]
    factor = torch.exp(torch.lgamma(gammas + 1) - torch.lgamma(gammas + a + 1))[..., None]
    exact = factor * m ** (gammas + a)[..., None]
    n = 1 << (2 * count - 1).bit_length()
    product = torch.fft.rfft(power, n) * torch.fft.rfft(weights, n)[:, None]
    defect = exact - torch.fft.irfft(product, n)[..., :count]
    result = torch.linalg.solve(power[:, :, :s], defect).mT.contiguous()
    result[:, 0] = 0
    return result
