"""The compiled extension: where it is, and why not if it is missing."""

from __future__ import annotations


def missing_reason() -> str | None:
    """Why the compiled kernels cannot be used, or None."""
    return "the C++ extension was not built"


def cpu_lanes(float64: bool) -> int:
    """Channels per vector register."""
    return 4 if float64 else 8
