"""Ctrl-C between tokens and not inside of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """Inside, Ctrl-C waits for the next ``check``; a second one does not wait.

    Books and launches of a token belong together, and a KeyboardInterrupt may come between any two
    instructions. Only in the main thread, and only where nobody else handles the signal.
    """

    def __init__(self) -> None:
        self._pending = self._at_once = False
        self._previous: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread() and (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        if error is None:
            self.check()

    def check(self) -> None:
        """KeyboardInterrupt if there was one."""
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, Ctrl-C does not wait: for code of the caller's, which may take long."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._at_once or self._pending:
            raise KeyboardInterrupt
        self._pending = True
