"""Direct sums solve what the engine solves."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from bench.peers.fractional import ALPHA, PEERS, direct_numpy, direct_torch


@pytest.mark.parametrize("solve", [direct_numpy, direct_torch])
@pytest.mark.parametrize("steps", [1, 2, 37])
def test_direct_sums_equal_ours(solve, steps):
    rates = torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)
    found = ff.volterra.solve_caputo(
        lambda t, y: -rates * y, ALPHA, torch.ones_like(rates), 1.0, steps
    )
    torch.testing.assert_close(solve(rates, steps), found.values[-1], rtol=0, atol=1e-12)


def test_packages_that_are_missing_say_so():
    reasons = {peer.name: peer.unavailable() for peer in PEERS}
    assert reasons["direct sums, numpy"] is None
    assert set(reasons.values()) <= {None, "not installed"}
