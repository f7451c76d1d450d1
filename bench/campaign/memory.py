"""Memory that is used up inside a call: an operation that cannot allocate."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from .interrupts import of_package


def out_of_memory(after: int, *, late: bool = False) -> AbstractContextManager[Any]:
    """Inside, allocating operation number ``after`` that the package asks for raises MemoryError.

    late: one of the package's own raises when it has run, as if what it allocates last were not
    there.
    """
    return _Limited(after, late)


class _Limited(TorchDispatchMode):
    def __init__(self, left: int, late: bool) -> None:
        super().__init__()
        self._left, self._late = left, late

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        own = op.namespace == "futurefill_kernels"
        asks = own or _allocates(op, kwargs or {})
        gives_back = op.overloadpacket.__name__ == "unbind"
        if self._left < 0 or gives_back or not asks or not _inside():
            return op(*args, **(kwargs or {}))
        self._left -= 1
        if self._left >= 0:
            return op(*args, **(kwargs or {}))
        if own and self._late:
            op(*args, **(kwargs or {}))
        raise MemoryError(f"planted in {op}")


def _allocates(op: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether it returns tensors that are no views, and none that was given to it."""
    in_place = op.overloadpacket.__name__.endswith("_") or "out" in kwargs
    return not (op.is_view or in_place)


def _inside() -> bool:
    """Whether the package is who asks, at whatever depth."""
    frame = inspect.currentframe()
    while frame is not None:
        if of_package(frame):
            return True
        frame = frame.f_back
    return False
