"""A random program as plain data: what it is run on, and its operations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

#: One operation: its name under "do", and what it is given.
Operation = dict[str, Any]


@dataclass
class Program:
    """kind: a key of `runs.KINDS`. setup: sizes, plan, implementation, and the seed of all values.

    Everything in it is JSON, and every operation can be left out: an operation takes the part of
    its arguments that the stream has room for.
    """

    kind: str
    setup: dict[str, Any]
    operations: list[Operation] = field(default_factory=list)

    def text(self) -> str:
        """One line that `parse` reads."""
        return json.dumps([self.kind, self.setup, self.operations], separators=(",", ":"))


def parse(text: str) -> Program:
    """A program from its line. ValueError where it is none."""
    try:
        kind, setup, operations = json.loads(text)
        return Program(str(kind), dict(setup), list(operations))
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a program as fuzz prints it, got {text[:60]!r}") from error


@dataclass
class Outcome:
    """What came of a program.

    cases: compared operations. worst: the largest error over its bound. failure: what was wrong,
    None where nothing was. at: the operation that it was seen in.
    """

    cases: int = 0
    worst: float = 0.0
    failure: str | None = None
    at: int = -1
