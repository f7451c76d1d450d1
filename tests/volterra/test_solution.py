"""Values between grid points."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.volterra.solution import Solution, grid


def test_linear_between_grid_points():
    times = grid(2.0, 4)
    solution = Solution(times, torch.stack([times, 3 * times], dim=1))
    torch.testing.assert_close(solution.at(0.7), torch.tensor([0.7, 2.1], dtype=torch.float64))
    t = torch.tensor([0.0, 0.5, 1.9, 2.0], dtype=torch.float64)
    torch.testing.assert_close(solution.at(t), torch.stack([t, 3 * t], dim=1))


@pytest.mark.parametrize("t", [-0.1, 2.1, float("nan"), [0.0, 3.0]])
def test_outside(t):
    solution = Solution(grid(2.0, 4), torch.zeros(5))
    with pytest.raises(ValueError, match=r"expected t within 0\.0 \.\. 2\.0"):
        solution.at(torch.tensor(t) if isinstance(t, list) else t)
