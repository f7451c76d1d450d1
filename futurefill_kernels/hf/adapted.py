"""A model of public code, or of one's own, as a model of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..adapting.adapt import AdaptedModel
from .folders import CheckedFolders
from .generation import StreamGenerationMixin


class AdaptedForCausalLM(StreamGenerationMixin, CheckedFolders):
    """What `adapt` makes of a model, with ``generate``, ``save_pretrained`` and
    ``from_pretrained``.

    A subclass names its ``config_class``, whose ``vocab_size`` is the number of rows of the
    embedding, and says in ``build`` how the model is made. Weights have the names that they have in
    the original, behind ``model.``; `from_pretrained` takes them without it too. What filters are
    computed from stays float32 in models of half precision.

    config: of that class. model: what ``build`` would give, with weights of its own.
    """

    base_model_prefix = "model"

    def __init__(self, config: PreTrainedConfig, model: nn.Module | None = None) -> None:
        super().__init__(config)
        wanted = None
        if model is None:
            with _on_the_cpu_in_float32() as wanted:
                model = self.build(config)
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"expected {type(self).__name__}.build to return a module that is called as "
                f"model(ids, cache=cache), such as adapt returns, got {type(model).__name__}"
            )
        if wanted is not None:
            model.to(wanted)
        self._check_vocabulary_size(config, model)
        self._stream_model = (model,)  # not registered: the original's names have no second prefix
        self.model = model.model if isinstance(model, AdaptedModel) else model
        self._shared = _shared_names(self)
        self._tied_weights_keys = self._shared
        # transformers writes anything over buffers that are not saved
        self._derived = {n: x.clone() for n, x in self.named_non_persistent_buffers()}
        self.post_init()

    def build(self, config: PreTrainedConfig) -> nn.Module:
        """The model with fresh weights, in eval mode, as `adapt` returns it; any module that is
        called as ``model(ids, cache=cache)`` will do.
        """
        raise TypeError(f"{type(self).__name__} must define build(config)")

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but ValueError for weights that are corrupt, missing or not of this
        model.
        """
        loaded = super().from_pretrained(path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for name, buffer in model._derived.items():
            module, _, attribute = name.rpartition(".")
            parent = model.get_submodule(module)
            setattr(parent, attribute, buffer.to(getattr(parent, attribute).device))
        return loaded

    @property
    def stream_model(self) -> nn.Module:  # type: ignore[override]
        """What a `StreamCache` is the state of."""
        return self._stream_model[0]

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Names of weights that are the same tensor, whatever the configuration says."""
        return dict(self._shared)

    def get_input_embeddings(self) -> nn.Module:
        """The first embedding."""
        return next(m for m in self.model.modules() if isinstance(m, nn.Embedding))

    def _init_weights(self, module: nn.Module) -> None:
        """``build`` has drawn them."""

    def _check_vocabulary_size(self, config: PreTrainedConfig, model: nn.Module) -> None:
        embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
        if embedding is None:
            raise ValueError(f"expected {type(model).__name__} to have an embedding")
        size = getattr(config, "vocab_size", None)
        if size != embedding.num_embeddings:
            raise ValueError(
                f"expected {type(config).__name__}.vocab_size = {embedding.num_embeddings}, the "
                f"rows of the embedding, got {size}"
            )


@contextmanager
def _on_the_cpu_in_float32() -> Iterator[torch.dtype]:
    """Not on meta and in the dtype of a folder, which is what this gives, as transformers would
    have it: public code keeps tensors that are no parameters, and computes positions that half
    precision does not have.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield before
    finally:
        torch.set_default_dtype(before)


def _shared_names(model: nn.Module) -> dict[str, str]:
    """name -> the first name of the same parameter, of all that have several."""
    first: dict[nn.Parameter, str] = {}
    shared = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(parameter, name) != name:
            shared[name] = first[parameter]
    return shared
