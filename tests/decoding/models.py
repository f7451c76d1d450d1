"""Small models of every mixer, whose tokens wander."""

from __future__ import annotations

import torch
from torch import nn

from futurefill_kernels import nn as ffnn
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig

VOCABULARY = 50


class Model(nn.Module):
    """Mixers between norms; logits far enough apart that rounding changes no token."""

    def __init__(self, *mixers):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.mixers = nn.ModuleList(mixers)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, ids, cache=None):
        x = self.embedding(ids)
        for mixer in self.mixers:
            x = nn.functional.rms_norm(x + mixer(x, cache), (16,))
        return 8 * self.head(x)


def language_model():
    config = LanguageModelConfig(VOCABULARY, 64, channels=8, layers=2, mlp_hidden=16)
    model = LanguageModel(config)
    with torch.no_grad():
        model.embedding.weight *= 50
        model.norm.weight.copy_(torch.randn(8))  # or the output is close to the input
    return model


MODELS = {
    "language-model": language_model,
    "hyena-3": lambda: Model(ffnn.Hyena(16, 64, order=3), ffnn.Hyena(16, 64)),
    "stu": lambda: Model(ffnn.STU(16, 64, filters=4), ffnn.STU(16, 64, filters=4)),
    "stu-full": lambda: Model(ffnn.STU(16, 64, filters=3, tensorised=False)),
    "long-conv": lambda: Model(
        ffnn.LongConv(16, 64), ffnn.LongConv(16, 9, groups=2, skip=False), ffnn.Hyena(16, 64)
    ),
}  # fmt: skip


def make(name):
    """The model in double precision, the same every time."""
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ffnn.Hyena):  # fresh ones change little, and tokens repeat
                module.in_proj.weight *= 4
                module.out_proj.weight *= 8
    return model
