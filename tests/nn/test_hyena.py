"""Hyena: both modes, and orders that it refuses."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels.nn import Hyena, ImplicitFilter
from tests.nn.mixers import MIXERS, TOLERANCE, check_modes, named


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", named("hyena"))
def test_prefill_and_steps_equal_the_parallel_form(name, dtype):
    check_modes(MIXERS[name], dtype)


def test_an_impossible_order_is_refused():
    with pytest.raises(ValueError, match="order >= 2, got 1"):
        Hyena(4, 8, order=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_window_ends_before_subnormal_numbers(dtype):
    conv = ImplicitFilter(3, 4000).to(dtype)
    with torch.no_grad():
        conv.log_decay_length.copy_(torch.tensor([0.5, 3.0, 7.5]))
    exact = ImplicitFilter(3, 4000).double()
    exact.load_state_dict(conv.state_dict())
    taps = conv.taps(4000)
    with torch.no_grad():
        unbounded = exact.frequency * exact.input(exact._lag_features(4000))
        unbounded = exact.output(exact.hidden(unbounded.sin()).sin()).T
        decay = torch.exp(-exact.log_decay_length)[:, None]
        unbounded *= torch.exp(-decay * torch.arange(4000)) * decay.sqrt()
    assert float((taps - unbounded).detach().abs().max()) < 100 * torch.finfo(dtype).eps
    assert not taps[0, 3000:].any()  # e^-1820 is no number
    assert taps[2].all()
    smallest = taps[taps != 0].abs().min()
    assert smallest > torch.finfo(dtype).tiny
    taps.sum().backward()
    assert all(p.grad.isfinite().all() for p in conv.parameters() if p.grad is not None)
    assert conv.log_decay_length.grad.all()
