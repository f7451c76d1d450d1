"""The PTX emulator that the environment variable FUTUREFILL_PTXEMU names, if any."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def unavailable() -> str | None:
    """Why there is no emulator, or None."""
    folder = os.environ.get("FUTUREFILL_PTXEMU", "")
    if not os.path.isdir(os.path.join(folder, "ptxemu")):
        return "FUTUREFILL_PTXEMU does not name a folder with a PTX emulator"
    return None


def load() -> Any:
    """The emulator's module. Raises RuntimeError where there is none."""
    reason = unavailable()
    if reason:
        raise RuntimeError(reason)
    folder = os.environ["FUTUREFILL_PTXEMU"]
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module("ptxemu")
