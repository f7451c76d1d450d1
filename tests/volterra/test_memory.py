"""Memory against direct sums, and a random walk's renewal in closed form."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.volterra import Memory


def direct(taps, inputs):
    """sums_n for n = 1 .. N. taps (K, G, N), inputs (N, G, ...)."""
    found = []
    for n in range(1, len(inputs) + 1):
        w = taps[:, :, :n].flip(2).movedim(2, 0)  # (n, K, G)
        w = w.reshape(*w.shape, *(1,) * (inputs.ndim - 2))
        found.append((w * inputs[:n, None]).sum(0))
    return torch.stack(found)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize(
    ("sums", "groups", "paths"),
    [(1, 1, ()), (2, 1, (3,)), (1, 3, (5,)), (2, 3, (11,)), (1, 1, (41,))],
)
def test_sums_equal_direct_ones(sums, groups, paths, impl):
    steps, generator = 37, torch.Generator().manual_seed(1)
    taps = torch.randn(sums, groups, steps, generator=generator, dtype=torch.float64)
    inputs = torch.randn(steps, groups, *paths, generator=generator, dtype=torch.float64)
    memory = Memory(taps, (groups, *paths), impl=impl)
    expected = direct(taps, inputs)
    for u, sums_n in zip(inputs, expected, strict=True):
        memory.input.copy_(u)
        memory.advance()
        torch.testing.assert_close(memory.sums, sums_n, rtol=1e-12, atol=1e-12)


def test_one_filter_row_serves_all_paths():
    many = Memory(torch.ones(1, 1, 64, dtype=torch.float64), (1001,))
    one = Memory(torch.ones(1, 1, 64, dtype=torch.float64), (16,))
    spectra = many.cache.state.spectra.numel(), one.cache.state.spectra.numel()
    # plans may differ; a filter for each path would be a thousand times as much
    assert spectra[0] < 4 * spectra[1]


def test_renewal_of_a_random_walk():
    """Returns to 0: u_n = sum f_k u_{n-k}, u_n = C(2n, n) / 4**n (Feller, volume 1, III)."""
    steps = 4096
    u, first = [1.0], []
    for n in range(1, steps + 1):
        u.append(u[-1] * (2 * n - 1) / (2 * n))
        first.append(u[-1] / (2 * n - 1))
    memory = Memory(torch.tensor(first, dtype=torch.float64)[None, None], ())
    memory.input.fill_(1.0)
    worst = 0.0
    for n in range(1, steps + 1):
        memory.advance()
        worst = max(worst, abs(float(memory.sums) / u[n] - 1))
        memory.input.copy_(memory.sums)
    assert worst < 1e-13
    assert abs(float(memory.sums) - 0.00881519322048166) < 1e-15


@pytest.mark.parametrize(
    ("taps", "shape", "text"),
    [
        (torch.ones(3, 4), (), r"expected taps \(K, G, N\)"),
        (torch.ones(1, 2, 4), (3,), r"G = 2 filter rows, got \(3,\)"),
        (torch.ones(1, 2, 4), (4,), r"G = 2 filter rows, got \(4,\)"),
        (torch.ones(1, 1, 4), (0,), r"got \(0,\)"),
    ],
)
def test_bad_sizes(taps, shape, text):
    with pytest.raises(ValueError, match=text):
        Memory(taps, shape)
