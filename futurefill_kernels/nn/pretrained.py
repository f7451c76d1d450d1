"""Weights on disk: safetensors files that carry their model's configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from .language_model import LanguageModel, LanguageModelConfig
from .parallel.agreement import alike
from .parallel.ranks import ranks_of
from .shards import reading, weight_files

#: The weights that ship with the package, and their card beside them.
SHIPPED = Path(__file__).parent.parent / "weights" / "stdlib-hyena.safetensors"

#: What transformers knows our models by (`ff.hf`).
MODEL_TYPE = "futurefill"


def save_model(model: LanguageModel, path: str | Path, record: dict[str, Any]) -> None:
    """Write weights, configuration and training record to ``path``, replacing it in one move.

    Over ranks all call it, rank 0 writes the whole model, and an error of its is one on all.
    """
    path, ranks = Path(path), ranks_of(model)
    metadata = {"config": json.dumps(asdict(model.config)), "record": json.dumps(record)}

    def write(weights: dict[str, torch.Tensor]) -> None:
        temporary = path.with_suffix(".partial")
        save_file(weights, temporary, metadata)
        os.replace(temporary, path)

    if ranks is None:
        write(model.state_dict())
        return
    # DTensor's import takes half a second, which a model on one device need not wait for
    from .parallel.sharded import whole_state

    alike(ranks, lambda: None, lambda _: {"call": "save_model"})
    weights, first = whole_state(model, ranks), ranks.rank == 0
    alike(ranks, lambda: write(weights) if first else None, lambda _: {})


def load_model(path: str | Path | None = None, *, progress: bool = False) -> LanguageModel:
    """The model saved in ``path`` (default: the one that ships with the package), on the CPU
    and in the dtype that it was saved in. A folder is one that `ff.hf` saved: ``config.json`` and
    ``model.safetensors``, or several files and ``model.safetensors.index.json``. progress: show a
    bar on stderr.

    Raises FileNotFoundError, and ValueError for a file that is corrupt, truncated or not ours.
    """
    path = SHIPPED if path is None else Path(path)
    if path.is_dir():
        config, files, prefix = _config_of_folder(path), weight_files(path), "model."
    else:
        metadata = _metadata(path)
        files, prefix = [path], ""
        config = _config(path, lambda: json.loads(metadata["config"]))
    with torch.device("cpu"):
        model = LanguageModel(config)
        tensors = {n.removeprefix(prefix): x for n, x in _tensors(files, progress).items()}
    expected = model.state_dict()
    if set(tensors) != set(expected):
        wrong = sorted(set(tensors) ^ set(expected))
        raise ValueError(f"{path} does not match its configuration: unexpected or missing {wrong}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"expected {name} {tuple(expected[name].shape)} in {path}, "
                f"got {tuple(tensor.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"expected {name} in {path} to be finite, got NaN or infinity")
    dtype, *others = {tensor.dtype for tensor in tensors.values()}
    if others or not dtype.is_floating_point:
        found = sorted(map(str, (dtype, *others)))
        raise ValueError(f"expected tensors of one floating point dtype in {path}, got {found}")
    model.to(dtype).load_state_dict(tensors)
    return model.eval()


def read_record(path: str | Path | None = None) -> dict[str, Any]:
    """How the model in ``path`` was trained, as `save_model` was told; empty when unknown."""
    record: dict[str, Any] = json.loads(_metadata(Path(path or SHIPPED)).get("record", "{}"))
    return record


def _config(path: Path, read: Callable[[], dict[str, Any]]) -> LanguageModelConfig:
    try:
        return LanguageModelConfig(**read())
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} carries no usable model configuration: {error!r}") from error


def _config_of_folder(folder: Path) -> LanguageModelConfig:
    """Of a config.json, whose other fields are transformers' own."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no config.json in {folder}")

    def read() -> dict[str, Any]:
        found = json.loads(path.read_text())
        if found["model_type"] != MODEL_TYPE:
            raise ValueError(f"expected model_type {MODEL_TYPE!r}, got {found['model_type']!r}")
        return {f.name: found[f.name] for f in fields(LanguageModelConfig) if f.name in found}

    return _config(path, read)


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    with reading(path) as file:
        return file.metadata() or {}


def _tensors(files: Sequence[Path], progress: bool) -> dict[str, torch.Tensor]:
    """What is in safetensors files. progress: show a bar on stderr."""
    found: dict[str, torch.Tensor] = {}
    size = sum(path.stat().st_size for path in files)
    with tqdm(total=size, unit="B", unit_scale=True, disable=not progress, leave=False) as bar:
        for path in files:
            with reading(path) as file:
                for name in file.keys():  # noqa: SIM118
                    found[name] = file.get_tensor(name)
                    bar.update(found[name].nbytes)
    return found
