"""Failures planted at any function call inside a call, as of Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import futurefill_kernels as ff

_PACKAGE = str(Path(ff.__file__).parent)


def of_package(frame: FrameType) -> bool:
    """Whether it runs the package's own code."""
    return frame.f_code.co_filename.startswith(_PACKAGE)


class Interrupt(Exception):
    """Planted."""


@contextmanager
def interrupted(after: int) -> Iterator[None]:
    """Inside, function call number ``after`` that the package makes, of torch or itself, raises."""
    left = after

    def hook(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        if not of_package(frame) or event not in ("call", "c_call"):
            return
        if frame.f_code.co_name == "unbind":  # of an object that goes: Python drops what it raises
            return
        left -= 1
        if left < 0:
            sys.setprofile(None)
            raise Interrupt

    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(None)
