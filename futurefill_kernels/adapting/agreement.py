"""Whether two ways to compute outputs of a model give the same."""

from __future__ import annotations

import torch
from torch import Tensor

#: largest difference, relative to the largest output
_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}


def difference(found: Tensor, expected: Tensor, whole: Tensor) -> float:
    """The largest, relative to the largest of the whole output."""
    return float((found - expected).abs().max() / whole.abs().max())


def tolerance(dtype: torch.dtype) -> float:
    """Of differences between outputs of a dtype."""
    return _TOLERANCES.get(dtype, 0.1)
