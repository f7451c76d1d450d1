"""The cache of the call that is under way, for operators that are not handed one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..nn.interface import Cache

_current: ContextVar[Cache | None] = ContextVar("futurefill_kernels_cache", default=None)


def current_cache() -> Cache | None:
    """What the adapted model was called with."""
    return _current.get()


@contextmanager
def use_cache(cache: Cache | None) -> Iterator[None]:
    """Inside, ``current_cache`` is this one; other threads see their own."""
    token = _current.set(cache)
    try:
        yield
    finally:
        _current.reset(token)
