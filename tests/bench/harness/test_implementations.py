"""States of implementations by name: the spectra that they make themselves."""

from __future__ import annotations

import pytest
import torch

import futurefill_kernels as ff
from bench.harness import implementations
from futurefill_kernels.implementations import cuda_early, triton
from futurefill_kernels.state.spectra import tiled_spectra

CPU = torch.device("cpu")


def test_names():
    assert implementations.names_of("auto", CPU) == ["auto"]
    each = implementations.names_of("each", CPU)
    assert "reference" in each
    assert "cuda" not in each
    assert implementations.fills_of("cuda", CPU, 64) == ["cuda", "cuda_early"]
    assert implementations.fills_of("cuda", CPU, 32) == ["cuda"]
    with pytest.raises(ValueError, match="unknown impl 'fast'; expected 'each' or one of cpu"):
        implementations.combined("fast", ["cuda"])


@pytest.mark.parametrize("sizes", [(64,), (64, 192), (8, 24)])
def test_spectra_are_those_that_the_implementation_prepares(sizes):
    """Of one and of several products, whole and ragged blocks, and of a second form."""
    plan, h = ff.Plan(200, sizes), torch.randn(40, 200)
    layout = triton.make_layout(40, 40, torch.float32, plan)
    expected = tiled_spectra(h, plan, layout, torch.float32)
    for name, form in (("triton", triton), ("cuda_early", cuda_early)):
        whole = implementations.combined(name, [name] * len(plan.levels))
        own = expected.clone()
        for level in plan.levels:
            form.arrange_level(own, level, h, layout)
        names = [name] * len(plan.levels)
        state = implementations.make_state(whole, names, plan, h, 2, 1)
        assert state.spectra.shape == (2, *own.shape)
        assert torch.allclose(state.spectra, own.expand_as(state.spectra), atol=1e-7)
