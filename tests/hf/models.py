"""A small model of transformers whose greedy tokens wander."""

from __future__ import annotations

import torch

from futurefill_kernels import hf
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig

VOCABULARY = 50


def make(mixer="hyena", seed=0):
    """In double precision, the same every time."""
    torch.manual_seed(seed)
    config = LanguageModelConfig(
        VOCABULARY, 64, channels=8, layers=2, mlp_hidden=16, mixer=mixer, spectral_filters=4
    )
    model = LanguageModel(config).double().eval()
    with torch.no_grad():
        model.embedding.weight *= 50
        model.norm.weight.copy_(torch.randn(8, dtype=torch.float64))
        for name, weight in model.named_parameters():  # or the output is close to the input
            if name.endswith(("out_proj.weight", "proj.weight", "down.weight")):
                weight *= 16
    return hf.FutureFillForCausalLM.from_language_model(model)
