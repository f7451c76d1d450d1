"""The model of the FutureFill paper's experiments, and what a token of a model must read."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import futurefill_kernels as ff
from futurefill_kernels.decoding.model_cache import DecodingCache


class StuModel(nn.Module):
    """Embedding, blocks of STU and gated MLP on a normalised residual stream, tied output map.

    mlp_hidden: 0 for no MLP. With 8 layers of width 1024, an MLP of 12 x 1024 and 200,064 ids these
    are the 515 million parameters of the paper (arXiv 2410.03766).
    """

    def __init__(
        self, layers: int, width: int, context: int, vocabulary: int, mlp_hidden: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        count = min(24, context)
        self.mixers = nn.ModuleList(ff.nn.STU(width, context, filters=count) for _ in range(layers))
        norms = 2 * layers + 1 if mlp_hidden else layers + 1
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(norms))
        hidden = [mlp_hidden] * layers if mlp_hidden else []
        self.up = nn.ModuleList(nn.Linear(width, 2 * h, bias=False) for h in hidden)
        self.down = nn.ModuleList(nn.Linear(h, width, bias=False) for h in hidden)

    def hidden(self, ids: Tensor, cache: DecodingCache | None = None) -> Tensor:
        """ids: (B, T). Returns what the output map takes, (B, T, D)."""
        x, norms = self.embedding(ids), iter(self.norms)
        for layer, mixer in enumerate(self.mixers):
            x = x + mixer(next(norms)(x), cache)
            if self.up:
                gate, up = self.up[layer](next(norms)(x)).chunk(2, -1)
                x = x + self.down[layer](F.gelu(gate, approximate="tanh") * up)
        return next(norms)(x)

    def forward(self, ids: Tensor, cache: DecodingCache | None = None) -> Tensor:
        """ids: (B, T). Returns logits (B, T, V)."""
        return F.linear(self.hidden(ids, cache), self.embedding.weight)


def stu_model(
    layers: int,
    width: int,
    context: int,
    *,
    vocabulary: int,
    mlp_hidden: int,
    device: torch.device,
    dtype: torch.dtype,
) -> StuModel:
    """A new model with random weights, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        return StuModel(layers, width, context, vocabulary, mlp_hidden).to(dtype).eval()


@torch.no_grad()
def logits_of_the_last(model: StuModel, ids: Tensor, count: int) -> Tensor:
    """Logits (B, count, V) in float64 of the parallel model at the last positions of ids (B, T)."""
    dtype = next(model.parameters()).dtype
    model.double()
    try:
        hidden = model.hidden(ids)[:, -count:]
        return F.linear(hidden, model.embedding.weight)
    finally:
        model.to(dtype)


def weight_nbytes(model: nn.Module) -> int:
    """Bytes of the weights that every token reads: all matrices; a filter's are prepared."""
    return sum(
        p.nbytes for name, p in model.named_parameters() if p.ndim == 2 and "filter" not in name
    )
