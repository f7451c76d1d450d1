"""What a call is stopped by inside: an interrupt, or memory that is used up."""

from __future__ import annotations

from contextlib import AbstractContextManager

from .interrupts import Interrupt, interrupted
from .memory import out_of_memory

#: What comes out of a call that is stopped.
Stop = (Interrupt, MemoryError)


def inside(number: int, how: str = "interrupt") -> AbstractContextManager[None]:
    """Inside, call number ``number`` is stopped.

    how: "interrupt", any function call; "memory", one that allocates; "late", the same, one of the
    package's own operations when it has run.
    """
    if how == "interrupt":
        return interrupted(number)
    return out_of_memory(number, late=how == "late")
