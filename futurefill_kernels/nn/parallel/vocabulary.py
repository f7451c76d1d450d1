"""Embedding and head cut by ids."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..interface import Cache
from ..language_model import LanguageModel
from .ranks import Ranks
from .sharded import shard
from .split import Split
from .style import Style, cannot_be


class VocabularyEmbedding(nn.Embedding):
    """An embedding of which a rank has neighbouring rows; a sum over ranks makes it whole."""

    ranks: Ranks

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (...) int64. Returns (..., D). IndexError on the CPU for ids that are none."""
        if ids.device.type == "cpu" and ids.numel():
            least, most = int(ids.min()), int(ids.max())
            if least < 0 or most >= self.num_embeddings:
                raise IndexError(
                    f"expected ids in 0 .. {self.num_embeddings - 1}, got {least} .. {most}"
                )
        own = ids - self.ranks.rank * len(self.weight)
        inside = (own >= 0) & (own < len(self.weight))
        x = F.embedding(own.where(inside, 0), self.weight)
        return self.ranks.sum(x.masked_fill(~inside[..., None], 0))


class ParallelLanguageModel(LanguageModel):
    """A language model whose ranks make the logits of their ids, which are then gathered."""

    ranks: Ranks

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids: (B, T) int64. Returns logits (B, T, vocabulary), the same on every rank."""
        logits = super().forward(ids, cache)  # (B, T, V/N), the last ones padded
        return self.ranks.gather(logits)[..., : self.config.vocabulary]


class Vocabulary(Style):
    """The rows of a `LanguageModel`'s embedding, which is its head as well; a number of ids that
    ranks do not divide is filled up.
    """

    def cannot(self, module: nn.Module, size: int) -> list[str]:
        """See `Style`."""
        reasons = cannot_be(module, LanguageModel)
        if not reasons and isinstance(module, LanguageModel):
            reasons = cannot_be(module.embedding, nn.Embedding)
            if module.embedding.max_norm is not None:
                reasons += ["expected an embedding without max_norm, which changes its weight"]
        return reasons

    def divide(self, module: nn.Module, ranks: Ranks) -> None:
        """See `Style`."""
        assert isinstance(module, LanguageModel)
        embedding = module.embedding
        shard(embedding, ranks, {"weight": Split(0, embedding.num_embeddings, ranks.size)})
        embedding.__class__ = VocabularyEmbedding
        module.ranks = ranks  # type: ignore[assignment]
        module.__class__ = ParallelLanguageModel
