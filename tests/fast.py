"""Cases that always run, and those that only run with ``pytest -m slow``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest


def combinations(*axes: Iterable[Any], fast: Iterable[Any]) -> list[Any]:
    """Every combination of the axes' values; all but the ``fast`` ones are slow.

    With one axis whose values are tuples, the cases themselves. Raises ValueError where a fast one
    is no combination.
    """
    cases = [case if len(axes) > 1 else case[0] for case in product(*axes)]
    chosen = list(fast)
    missing = [case for case in chosen if case not in cases]
    if missing:
        raise ValueError(f"expected some of {cases}, got {missing}")

    def parameter(case: Any) -> Any:
        values = case if isinstance(case, tuple) else (case,)
        return pytest.param(*values, marks=() if case in chosen else pytest.mark.slow)

    return [parameter(case) for case in cases]
