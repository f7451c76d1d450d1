"""A byte-level language model: Hyena mixers and gated MLPs between RMS norms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .hyena import Hyena
from .interface import Cache


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes of a `LanguageModel`.

    vocabulary: ids are ``0 <= id < vocabulary``. context_length: taps of every filter.
    channels: width ``D``. layers: blocks. mlp_hidden: width inside the gated MLP.
    """

    vocabulary: int = 256
    context_length: int = 16384
    channels: int = 192
    layers: int = 3
    mlp_hidden: int = 512
    filter_hidden: int = 64


class GatedMLP(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(channels, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D). Returns (..., D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """Mixer over time, then MLP over channels, each on a normalised residual stream."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.channels)
        self.mixer = Hyena(
            config.channels, config.context_length, filter_hidden=config.filter_hidden
        )
        self.mlp_norm = nn.RMSNorm(config.channels)
        self.mlp = GatedMLP(config.channels, config.mlp_hidden)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        x = x + self.mixer(self.mixer_norm(x), cache)
        return x + self.mlp(self.mlp_norm(x))


class LanguageModel(nn.Module):
    """Token ids to logits; the embedding is also the output map."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.channels)
        blocks = [Block(config) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(config.channels)
        nn.init.normal_(self.embedding.weight, std=0.02)
        with torch.no_grad():
            for block in blocks:  # keep the residual stream's variance at one
                block.mixer.out_proj.weight /= (2 * config.layers) ** 0.5
                block.mlp.down.weight /= (2 * config.layers) ** 0.5

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids: (B, T) int64. Returns logits (B, T, vocabulary)."""
        if cache is not None:
            logits = cache.fused_token(self, ids)
            if logits is not None:
                return logits
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, cache)
        return F.linear(self.norm(x), self.embedding.weight)
