"""Small language models whose widths are no multiple of a vector or of a panel."""

from __future__ import annotations

import torch

from futurefill_kernels.nn import Hyena, LanguageModel, LanguageModelConfig

CONFIGS = [
    LanguageModelConfig(vocabulary=50, context_length=64, channels=24, layers=2, mlp_hidden=40),
    LanguageModelConfig(vocabulary=7, context_length=64, channels=33, layers=1, mlp_hidden=17),
    LanguageModelConfig(vocabulary=300, context_length=64, channels=64, layers=3, mlp_hidden=130),
    LanguageModelConfig(
        vocabulary=50, context_length=64, channels=24, layers=3, mlp_hidden=40, mixer="stu",
        spectral_filters=6, activation="gelu",
    ),
    LanguageModelConfig(
        vocabulary=31, context_length=64, channels=33, layers=2, mlp_hidden=17, mixer="stu",
        spectral_filters=3, norm_eps=1e-3,
    ),
]  # fmt: skip


def make_model(
    config: LanguageModelConfig, *, order: int = 2, short_taps: int = 3
) -> LanguageModel:
    """Every parameter is away from its first value. order, short_taps: of Hyena mixers."""
    torch.manual_seed(0)
    model = LanguageModel(config).eval()
    for block in model.blocks if config.mixer == "hyena" else ():
        block.mixer = Hyena(
            config.channels,
            config.context_length,
            order=order,
            short_taps=short_taps,
            filter_hidden=config.filter_hidden,
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model.requires_grad_(False)
