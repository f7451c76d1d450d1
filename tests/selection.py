"""Which cases of a test run every time; the others take minutes and wait for ``-m slow``."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def slow_but(cases: Iterable[Any], fast: Container[Any]) -> list[Any]:
    """Values of one parameter: those in ``fast`` as they are, the others marked slow."""
    return [c if c in fast else pytest.param(c, marks=pytest.mark.slow) for c in cases]


def slow(*values: Any) -> Any:
    """One case of several parameters, marked slow."""
    return pytest.param(*values, marks=pytest.mark.slow)
