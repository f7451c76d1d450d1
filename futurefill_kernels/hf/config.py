"""The sizes of `ff.nn.LanguageModel` as a configuration of transformers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import PreTrainedConfig

from ..nn.language_model import LanguageModelConfig
from ..nn.pretrained import MODEL_TYPE

FIELDS = tuple(field.name for field in fields(LanguageModelConfig))


class FutureFillConfig(PreTrainedConfig):
    """Fields of `ff.nn.LanguageModelConfig` beside those of every `PreTrainedConfig`.

    Raises ValueError for what is out of range.
    """

    model_type = MODEL_TYPE
    attribute_map = {  # noqa: RUF012
        "vocab_size": "vocabulary",
        "hidden_size": "channels",
        "num_hidden_layers": "layers",
        "intermediate_size": "mlp_hidden",
    }

    def __init__(self, **kwargs: Any) -> None:
        kind = kwargs.get("model_type", MODEL_TYPE)
        if kind != MODEL_TYPE:
            raise ValueError(f"expected model_type {MODEL_TYPE!r}, got {kind!r}")
        for other, name in self.attribute_map.items():
            if other in kwargs:
                kwargs.setdefault(name, kwargs.pop(other))
        sizes = LanguageModelConfig(**{n: kwargs.pop(n) for n in FIELDS if n in kwargs})
        for name in FIELDS:
            setattr(self, name, getattr(sizes, name))
        super().__init__(**kwargs)

    def sizes(self) -> LanguageModelConfig:
        """What the model is built from."""
        return LanguageModelConfig(**{name: getattr(self, name) for name in FIELDS})
