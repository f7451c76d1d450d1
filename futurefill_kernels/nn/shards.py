"""Which files of a folder hold its weights: one, or several and an index of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder.

    Raises FileNotFoundError for a folder without weights or a file that the index names and is not
    there, ValueError for a file that is cut off, has other weights than the index says, or for an
    index that is none.
    """
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"no weights in {folder}: expected {WHOLE} or {INDEX}")
    expected: dict[Path, set[str]] = {}
    for name, file in _weight_map(folder / INDEX).items():
        expected.setdefault(folder / file, set()).add(name)
    absent = sorted(path.name for path in expected if not path.is_file())
    if absent:
        raise FileNotFoundError(f"{folder / INDEX} names {absent}, which {folder} does not have")
    for path, names in expected.items():
        with reading(path) as file:
            wrong = sorted(names ^ set(file.keys()))
        if wrong:
            raise ValueError(f"{path} does not match its index: unexpected or missing {wrong}")
    return list(expected)


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """A safetensors file, open; ValueError for one that is none or cut off."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error


def _weight_map(path: Path) -> dict[str, str]:
    """Names of weights and of the files, beside the index, that hold them."""
    try:
        found: Any = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    names = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(names, dict) or not names:
        raise ValueError(f"expected {path} to have a weight_map from names to files")
    for name, file in names.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f"expected {path} to name a file beside it for {name}, got {file!r}")
    return names
