"""Language models: Hyena or STU mixers and gated MLPs between RMS norms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .hyena import Hyena
from .interface import Cache
from .stu import STU

#: What an MLP may put its gate through; gelu is the form with tanh.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": partial(F.gelu, approximate="tanh"),
}
MIXERS = ("hyena", "stu")


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes of a `LanguageModel`.

    vocabulary: ids are ``0 <= id < vocabulary``. context_length: taps of every filter.
    channels: width ``D``. layers: blocks. mlp_hidden: width inside the gated MLP.
    filter_hidden: width of the network behind a filter, of mixer "hyena".
    mixer: "hyena", of order 2, or "stu" with ``spectral_filters`` filters, ``tensorised`` as in
    `STU`. activation: of the MLP's gate, "silu" or "gelu". norm_eps: of the RMS norms.

    Raises ValueError for what is out of range.
    """

    vocabulary: int = 256
    context_length: int = 16384
    channels: int = 192
    layers: int = 3
    mlp_hidden: int = 512
    filter_hidden: int = 64
    mixer: str = "hyena"
    spectral_filters: int = 24
    tensorised: bool = True
    activation: str = "silu"
    norm_eps: float = 2.0**-23

    def __post_init__(self) -> None:
        for name, choices in (("mixer", MIXERS), ("activation", tuple(ACTIVATIONS))):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"expected {name} to be one of {choices}, got {value!r}")
        for name in (
            *("vocabulary", "context_length", "channels", "layers", "mlp_hidden"),
            *("filter_hidden", "spectral_filters"),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"expected {name} to be an int >= 1, got {value!r}")
        if type(self.tensorised) is not bool:
            raise ValueError(f"expected tensorised to be a bool, got {self.tensorised!r}")
        if not 0 < self.norm_eps < math.inf:
            raise ValueError(f"expected norm_eps > 0 and finite, got {self.norm_eps!r}")
        if self.mixer == "stu" and self.spectral_filters > self.context_length:
            raise ValueError(
                f"expected spectral_filters <= context_length = {self.context_length}, "
                f"got {self.spectral_filters}"
            )


class GatedMLP(nn.Module):
    """``down(activation(gate(x)) * up(x))``. activation: a name in `ACTIVATIONS`."""

    def __init__(self, channels: int, hidden: int, activation: str = "silu") -> None:
        super().__init__()
        self.activation = activation
        self.gate_up = nn.Linear(channels, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D). Returns (..., D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(ACTIVATIONS[self.activation](gate) * up)


class Block(nn.Module):
    """Mixer over time, then MLP over channels, each on a normalised residual stream."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.channels, eps=config.norm_eps)
        self.mixer = make_mixer(config)
        self.mlp_norm = nn.RMSNorm(config.channels, eps=config.norm_eps)
        self.mlp = GatedMLP(config.channels, config.mlp_hidden, config.activation)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, T, D). Returns (B, T, D)."""
        x = x + self.mixer(self.mixer_norm(x), cache)
        return x + self.mlp(self.mlp_norm(x))


def make_mixer(config: LanguageModelConfig) -> Hyena | STU:
    """A new mixer as the configuration says."""
    sizes = config.channels, config.context_length
    if config.mixer == "stu":
        return STU(*sizes, filters=config.spectral_filters, tensorised=config.tensorised)
    return Hyena(*sizes, filter_hidden=config.filter_hidden)


class LanguageModel(nn.Module):
    """Token ids to logits; the embedding is also the output map."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.channels)
        blocks = [Block(config) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(config.channels, eps=config.norm_eps)
        nn.init.normal_(self.embedding.weight, std=0.02)
        with torch.no_grad():
            for block in blocks:  # keep the residual stream's variance at one
                mixer = block.mixer
                last = mixer.out_proj if isinstance(mixer, Hyena) else mixer.proj
                for linear in (last, block.mlp.down):
                    linear.weight /= (2 * config.layers) ** 0.5

    def __call__(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids: (B, T) int64. Returns logits (B, T, vocabulary).

        A fused token, which is none where anything listens to a call, is as it is without one.
        """
        if cache is not None:
            logits = cache.fused_token(self, ids)
            if logits is not None:
                return logits
        return super().__call__(ids, cache)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """The layers one by one; arguments and result of a call."""
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            x = cache.wanted(x)
        return F.linear(self.norm(x), self.embedding.weight)
