"""Lengths of a prompt's transforms: enough for what is read, and the cheapest of those."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from futurefill_kernels.planning.gpu_times import shipped
from futurefill_kernels.planning.prompt_length import ODD_FACTORS, prompt_length

EVEN = dict.fromkeys(ODD_FACTORS, 1.0)
POWERS = {1: 1.0}


@given(
    st.integers(1, 300), st.integers(1, 600), st.integers(1, 300), st.integers(0, 299),
    st.sampled_from([EVEN, POWERS, {1: 1.0, 3: 1.3, 5: 0.5}]),
)  # fmt: skip
def test_outputs_that_are_read_are_right(total, taps, length, seen, costs):
    """The cyclic convolution with its head made again, from ``seen`` to the future's end."""
    seen, taps = min(seen, total - 1), min(taps, total + length)
    found = prompt_length(total, taps, length, seen, costs)
    n, head = found.points, found.head
    assert n % 32 == 0
    assert n // (n & -n) in costs
    u, h = torch.rand(total, dtype=torch.float64), torch.rand(taps, dtype=torch.float64)
    y = torch.fft.irfft(torch.fft.rfft(u, n) * torch.fft.rfft(h, n), n)
    if head:
        k = found.head_points
        assert k >= 2 * head - 1
        first = torch.fft.rfft(u[:head], k) * torch.fft.rfft(h[:head], k)
        y[:head] = torch.fft.irfft(first, k)[:head]
    whole = total + length + taps
    exact = torch.fft.irfft(torch.fft.rfft(u, whole) * torch.fft.rfft(h, whole), whole)
    assert torch.allclose(y[seen : total + length], exact[seen : total + length])


@pytest.mark.parametrize(
    ("total", "length", "expected"),
    [
        (131072, 256, (262144, 255, 512)),  # 262,399 points would be a power of two more
        (2048, 64, (4096, 63, 128)),
        (4096, 4096, (12288, 0, 0)),
        (256, 65536, (71680, 0, 0)),
        (1, 1, (32, 0, 0)),
    ],
)
def test_neither_doubles_the_others_length(total, length, expected):
    assert prompt_length(total, total + length, length, 0, EVEN) == expected


def test_powers_of_two_alone_stay_below_twice_what_is_needed():
    found = prompt_length(131072, 131328, 256, 0, POWERS)
    assert found == (262144, 255, 512)
    assert prompt_length(5000, 5100, 100, 0, POWERS) == (8192, 1907, 4096)


def test_a_later_call_reads_less():
    """What wraps into positions of earlier calls is not made again."""
    assert prompt_length(4096, 4352, 256, 3900, EVEN) == (4608, 0, 0)
    assert prompt_length(4096, 4352, 256, 3900, POWERS) == (8192, 0, 0)


def test_costs_decide():
    """Of two ways that cost the same the one without a head."""
    assert prompt_length(4096, 8192, 4096, 0, {1: 1.0, 3: 2.0}) == (16384, 0, 0)
    assert prompt_length(4096, 8192, 4096, 0, {1: 1.0, 3: 1.0}) == (12288, 0, 0)


def test_on_an_h200_nothing_is_far_longer_than_what_is_needed():
    costs = dict(shipped()["h200"].ffts)
    for total in (512, 4096, 5000, 32768, 100_000, 131072):
        for length in (1, 256, 4096):
            found = prompt_length(total, total + length, length, 0, costs)
            needed = 2 * total + length - 1
            assert found.points + found.head_points < 1.2 * max(needed, 512)
