"""Folders of weights that are refused where they are not right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from ..nn.shards import INDEX, weight_files


class CheckedFolders(PreTrainedModel):
    """A `PreTrainedModel` that never puts new random weights where some are missing."""

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
