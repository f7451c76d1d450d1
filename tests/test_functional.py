"""The parallel forms: accuracy, and bad arguments by name."""

from __future__ import annotations

import pytest
import torch

from futurefill_kernels import functional
from tests.oracles import relative_error


def test_float32_parallel_form_is_accurate():
    torch.manual_seed(0)
    u, h = torch.randn(1, 8, 5000), torch.randn(8, 5000) / 70
    expected = functional.causal_conv(u.double(), h.double())
    assert relative_error(functional.causal_conv(u, h), expected) < 5e-7


@pytest.mark.parametrize(
    ("u", "h", "skip", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 4), None, r"expected u \(B, D, T\)"),
        (torch.zeros(2, 3, 0), torch.zeros(3, 4), None, "no empty dimension"),
        (torch.zeros(2, 3, 5), torch.zeros(3), None, r"expected h \(D, L\) or \(G, L\)"),
        (torch.zeros(2, 3, 5), torch.zeros(2, 4), None, "divide D = 3, got 2 rows"),
        (torch.zeros(2, 3, 5), torch.zeros(3, 4), torch.zeros(2), r"skip \(D,\) = \(3,\)"),
        (torch.zeros(2, 3, 5, requires_grad=True), torch.zeros(3, 4), None, "autograd-free"),
    ],
)
def test_bad_arguments_are_named(u, h, skip, message):
    with pytest.raises(ValueError, match=message):
        functional.causal_conv(u, h, skip)


def test_integer_inputs_are_a_type_error():
    with pytest.raises(TypeError, match="dtype of u"):
        functional.causal_conv(torch.zeros(1, 1, 4, dtype=torch.int64), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="expected n >= 1, got 0"):
        functional.future_fill(torch.zeros(1, 1, 4), torch.zeros(1, 4), 0)
