"""Run a program to its end or to the first thing that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .models import ModelRun
from .program import Operation, Outcome, Program
from .requests import RequestRun
from .streams import StreamRun


class Run(Protocol):
    """A program under way."""

    def do(self, operation: Operation) -> None:
        """One operation; raises what is wrong."""
        ...


KINDS: dict[str, Callable[[Program, Outcome], Run]] = {
    "stream": StreamRun, "model": ModelRun, "request": RequestRun,
}  # fmt: skip


def outcome_of(program: Program) -> Outcome:
    """What comes of a program; whatever it raises is its failure."""
    outcome = Outcome()
    try:
        run = KINDS[program.kind](program, outcome)
        for outcome.at, operation in enumerate(program.operations):
            run.do(operation)
    except Exception as error:
        outcome.failure = f"{type(error).__name__}: {error}"
    return outcome
