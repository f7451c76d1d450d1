"""What results are compared with, and how closely they have to agree."""

from __future__ import annotations

import torch

TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 error in float64; NaN counts as wrong."""
    got, expected = got.double(), expected.double()
    error = (got - expected).norm() / expected.norm().clamp_min(1e-300)
    return float("inf") if torch.isnan(error) else error.item()
