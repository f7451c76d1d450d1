"""Weights on disk: safetensors files that carry their model's configuration."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from .language_model import LanguageModel


def save_model(model: LanguageModel, path: str | Path, record: dict[str, object]) -> None:
    """Write weights, configuration and training record to ``path``, replacing it in one move."""
    path = Path(path)
    metadata = {"config": json.dumps(asdict(model.config)), "record": json.dumps(record)}
    temporary = path.with_suffix(".partial")
    save_file(model.state_dict(), temporary, metadata)
    os.replace(temporary, path)
