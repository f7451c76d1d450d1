"""The model of the FutureFill paper's experiments, and what a token of a model must read."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from futurefill_kernels.nn import LanguageModel, LanguageModelConfig


def stu_model(
    layers: int,
    width: int,
    context: int,
    *,
    vocabulary: int,
    mlp_hidden: int,
    device: torch.device,
    dtype: torch.dtype,
) -> LanguageModel:
    """A new model of STU blocks with random weights, made on the device.

    With 8 layers of width 1024, an MLP of 12 x 1024 and 200,064 ids these are the 515 million
    parameters of the paper (arXiv 2410.03766).
    """
    config = LanguageModelConfig(
        mixer="stu", layers=layers, channels=width, context_length=context, vocabulary=vocabulary,
        mlp_hidden=mlp_hidden, spectral_filters=min(24, context), activation="gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return LanguageModel(config).to(dtype).eval()


@torch.no_grad()
def logits_of_the_last(model: LanguageModel, ids: Tensor, count: int) -> Tensor:
    """Logits (B, count, V) in float64 of the parallel model at the last positions of ids (B, T).

    Only theirs are made: those of a long prompt would not fit.
    """
    dtype = next(model.parameters()).dtype
    model.double()
    try:
        x = model.embedding(ids)
        for block in model.blocks:
            x = block(x)
        return F.linear(model.norm(x[:, -count:]), model.embedding.weight)
    finally:
        model.to(dtype)


def weight_nbytes(model: nn.Module) -> int:
    """Bytes of the weights that every token reads: all matrices; a filter's are prepared."""
    return sum(
        p.nbytes for name, p in model.named_parameters() if p.ndim == 2 and "filter" not in name
    )
