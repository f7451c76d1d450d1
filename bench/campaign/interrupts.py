"""Failures planted inside a call, as of memory that is used up or Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import futurefill_kernels as ff

_PACKAGE = str(Path(ff.__file__).parent)


class Interrupt(Exception):
    """Planted."""


@contextmanager
def interrupted(after: int) -> Iterator[None]:
    """Inside, function call number ``after`` that the package makes, of torch or itself, raises.

    Not while a cache writes down that a call of a model has ended: that is finished or not.
    """
    left, ending = after, False

    def hook(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left, ending
        if frame.f_code.co_name == "end_call" and event in ("call", "return"):
            ending = event == "call"
        inside = frame.f_code.co_filename.startswith(_PACKAGE)
        if ending or not inside or event not in ("call", "c_call"):
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
