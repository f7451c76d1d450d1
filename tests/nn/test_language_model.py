"""The language model in both modes."""

from __future__ import annotations

import torch

from futurefill_kernels import DecodingCache
from futurefill_kernels.nn import LanguageModel, LanguageModelConfig
from tests.nn.mixers import CONTEXT, TOLERANCE, run_split


@torch.no_grad()
def test_logits_of_the_language_model_in_both_modes():
    torch.manual_seed(0)
    config = LanguageModelConfig(
        vocabulary=50, context_length=CONTEXT, channels=16, layers=3, mlp_hidden=24
    )
    ids = torch.randint(50, (2, 50))
    for dtype, tolerance in TOLERANCE.items():
        model = LanguageModel(config).to(dtype)
        cache = DecodingCache(model, 2, 45)
        streamed = run_split(model, ids, range(5, 50), cache)
        error = (streamed - model(ids)).abs().max().item()
        print(f"{dtype}: max difference in logits {error:.2e}")
        assert error < tolerance
