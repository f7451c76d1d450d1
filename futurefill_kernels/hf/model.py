"""`ff.nn.LanguageModel` as a model of transformers."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ..nn.language_model import LanguageModel
from .config import FutureFillConfig
from .folders import CheckedFolders
from .generation import StreamGenerationMixin


class FutureFillForCausalLM(StreamGenerationMixin, CheckedFolders, PreTrainedModel):
    """`ff.nn.LanguageModel` with ``generate``, ``save_pretrained`` and ``from_pretrained``.

    config: its sizes. ``model`` is the language model itself.
    """

    config_class = FutureFillConfig
    base_model_prefix = "model"

    def __init__(self, config: FutureFillConfig) -> None:
        super().__init__(config)
        self.model = LanguageModel(config.sizes())
        self.post_init()

    @classmethod
    def from_language_model(cls, model: LanguageModel) -> FutureFillForCausalLM:
        """A model around this one, whose weights it shares."""
        config = FutureFillConfig(**asdict(model.config))
        with torch.device("meta"):
            made = cls(config)
        made.model = model
        return made.train(model.training)

    @property
    def stream_model(self) -> nn.Module:  # type: ignore[override]
        """What a `StreamCache` is the state of."""
        return self.model

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, which is also the output map."""
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding."""
        self.model.embedding = value

    def _init_weights(self, module: nn.Module) -> None:
        """`LanguageModel` has drawn its own."""


AutoConfig.register(FutureFillConfig.model_type, FutureFillConfig)
AutoModelForCausalLM.register(FutureFillConfig, FutureFillForCausalLM)
