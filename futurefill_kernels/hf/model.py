"""`ff.nn.LanguageModel` as a model of transformers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ..nn.language_model import LanguageModel
from ..nn.shards import INDEX, weight_files
from .config import FutureFillConfig
from .generation import StreamGenerationMixin


class FutureFillForCausalLM(StreamGenerationMixin, PreTrainedModel):
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

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but ValueError for weights that are corrupt, missing or not of this
        model.
        """
        wanted = kwargs.pop("output_loading_info", False)
        if (Path(path) / INDEX).is_file():
            weight_files(Path(path))  # says what is wrong with it
        try:
            model, info = super().from_pretrained(
                path,
                *args,
                **{**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True},
            )
        except SafetensorError as error:
            raise ValueError(f"{path} holds no complete safetensors file: {error}") from error
        wrong = {name: sorted(map(str, found)) for name, found in info.items() if found}
        if wrong:
            raise ValueError(f"the weights of {path} do not match its configuration: {wrong}")
        return (model, info) if wanted else model

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
