"""The specification against numpy and scipy, and its algorithms against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal

from futurefill_kernels import Plan, functional, reference
from tests.oracles import relative_error


def _problem(channels: int, groups: int, taps: int, length: int):
    torch.manual_seed(channels * 1000 + taps * 10 + length)
    h = torch.randn(groups, taps, dtype=torch.float64) / taps**0.5
    u = torch.randn(2, channels, length, dtype=torch.float64)
    return u, h


@pytest.mark.parametrize(("taps", "length"), [(1, 1), (1, 7), (5, 3), (13, 13), (64, 31), (40, 97)])
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 3), (6, 2)])
def test_causal_conv_is_numpy_convolve(channels, groups, taps, length):
    u, h = _problem(channels, groups, taps, length)
    for function in (reference.causal_conv, functional.causal_conv):
        y = function(u, h).numpy()
        for b in range(u.shape[0]):
            for d in range(channels):
                row = h[d // (channels // groups)].numpy()
                expected = np.convolve(u[b, d].numpy(), row)[:length]
                np.testing.assert_allclose(y[b, d], expected, atol=1e-12)


def test_causal_conv_is_scipy_lfilter_with_skip():
    u, h = _problem(3, 3, 17, 50)
    skip = torch.randn(3, dtype=torch.float64)
    for function in (reference.causal_conv, functional.causal_conv):
        y = function(u, h, skip).numpy()
        for d in range(3):
            expected = (
                signal.lfilter(h[d].numpy(), [1.0], u[:, d].numpy())
                + skip[d].item() * u[:, d].numpy()
            )
            np.testing.assert_allclose(y[:, d], expected, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 19, 64])
@pytest.mark.parametrize("taps", [1, 10, 45, 200])
def test_future_fill_is_the_tail_of_the_full_convolution(taps, n):
    u, h = _problem(2, 2, taps, 33)
    full = np.zeros((2, 33 + taps + n))
    full[:, : 33 + taps - 1] = [np.convolve(u[0, d].numpy(), h[d].numpy()) for d in range(2)]
    for function in (reference.future_fill, functional.future_fill):
        np.testing.assert_allclose(function(u, h, n)[0].numpy(), full[:, 33 : 33 + n], atol=1e-12)


def _next_input(y: torch.Tensor) -> torch.Tensor:
    return torch.tanh(y) + 0.1


@pytest.mark.parametrize("length", [1, 2, 31, 64, 65])
@pytest.mark.parametrize("taps", [1, 9, 65, 200])
def test_every_stream_is_the_online_convolution(length, taps):
    u, h = _problem(4, 2, taps, 1)
    u_0 = u[..., 0]
    inputs, outputs = reference.online_conv(u_0, h, length, _next_input)
    # the stream's own outputs are the parallel convolution of its own inputs
    assert relative_error(reference.causal_conv(inputs, h), outputs) < 1e-13
    streams = [reference.continuous_conv(u_0, h, length, _next_input)]
    streams += [reference.epoched_conv(u_0, h, length, k, _next_input) for k in (1, 7, 100)]
    for sizes in ((1,), (2, 4, 8), (3, 12, 24), (5, 35), (8, 16, 64), (128,)):
        streams.append(reference.mixed_radix_conv(u_0, h, Plan(length, sizes), _next_input))
    for stream in streams:
        assert relative_error(stream[0], inputs) < 1e-13
        assert relative_error(stream[1], outputs) < 1e-13
