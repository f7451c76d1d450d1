"""Measured rates: one JSON file per device, written by ``python -m futurefill_kernels tune``.

``FUTUREFILL_TUNING`` says what plans use: ``strict`` (default), rates measured on exactly this
device, else on a CPU those of a probe within a second (`this_cpu`) and on a GPU the shipped ones;
``nearest``, rates of this or the most similar device of the kind, else as before; ``off``, the
shipped ones, and nothing is measured. ``FUTUREFILL_CACHE_DIR`` names the folder; without it
``$XDG_CACHE_HOME/futurefill_kernels`` or ``~/.cache/futurefill_kernels``.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

MODES = ("off", "strict", "nearest")
FORMAT = 2


def cache_folder() -> Path | None:
    """Where rates are stored; None for a user without a home."""
    named = os.environ.get("FUTUREFILL_CACHE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "futurefill_kernels"
    except RuntimeError:
        return None


def tuning_mode() -> str:
    """The mode in ``FUTUREFILL_TUNING``. Raises ValueError for an unknown one."""
    value = os.environ.get("FUTUREFILL_TUNING", "strict")
    if value not in MODES:
        raise ValueError(f"expected FUTUREFILL_TUNING to be one of {MODES}, got {value!r}")
    return value


def rates_path(kind: str, name: str) -> Path | None:
    """The file of a device; None where there is no folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    folder = cache_folder()
    return None if folder is None else folder / f"{kind}-{slug}.json"


def store_rates(
    kind: str, name: str, size: int, rates: dict[str, Any], path: Path | None = None
) -> Path:
    """Store a device's rates; the file appears whole or not at all.

    size: what "nearest" compares: multiprocessors of a GPU, lanes of a CPU. path: the file, the
    device's without. Raises RuntimeError where there is no folder for it, OSError where it cannot
    be written.
    """
    path = path or rates_path(kind, name)
    if path is None:
        raise RuntimeError("no home to store rates in: name a folder in FUTUREFILL_CACHE_DIR")
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"format": FORMAT, "kind": kind, "name": name, "size": size, "rates": rates}
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(json.dumps(record, indent=1) + "\n")
    scratch.replace(path)
    return path


def load_rates(kind: str, name: str, size: int) -> dict[str, Any] | None:
    """Stored rates for a device under the mode, or None for the shipped ones.

    Raises ValueError for a file that is not such a record.
    """
    chosen = tuning_mode()
    if chosen == "off":
        return None
    path = rates_path(kind, name)
    if path is None:
        return None
    if path.exists():
        return read_rates(path)
    if chosen == "nearest":
        records = [_read(p) for p in sorted(path.parent.glob(f"{kind}-*.json"))]
        if records:
            return dict(min(records, key=lambda r: abs(r["size"] - size))["rates"])
    return None


def read_rates(path: Path) -> dict[str, Any]:
    """The rates in a file. Raises ValueError for one that is not such a record."""
    return dict(_read(path)["rates"])


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        if record["format"] != FORMAT or not isinstance(record["rates"], dict):
            raise KeyError("format")
        return dict(record)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold rates of this version: remove it, or run "
            f"python -m futurefill_kernels tune again"
        ) from error
