"""A failing program made short: operations left out, sizes and options made plain."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

from .program import Operation, Program

#: What an option of an operation or a setup is when it plays no part.
PLAIN = {
    "view": "plain", "gates": 0, "out": False, "stop": None, "rows": None, "poison": None,
    "count": 1, "skip": False, "values": "normal", "dtype": "float32", "expand": 1, "groups": 1,
    "batch": 1, "plan": None, "rollback": None, "fused": False, "how": "clone", "impl": "cpu",
    "end": None, "greedy": False, "text": False, "form": "list", "model": "hyena",
    "memory": "speed", "half_filters": False, "endless": False, "wide": False, "plant": None,
    "following": "identity", "refuse": None, "undo": False, "fail": None, "run": False,
}  # fmt: skip


def shrunk(program: Program, fails: Callable[[Program], bool], seconds: float = 60.0) -> Program:
    """The shortest program found in that time that still fails.

    fails: whether a program does; it is called with changed copies.
    """
    stop = time.monotonic() + seconds
    current, changed = program, True
    while changed and time.monotonic() < stop:
        changed = False
        for candidate in _simpler(current):
            if time.monotonic() > stop:
                break
            if fails(candidate):
                current, changed = candidate, True
                break
    return current


def _simpler(program: Program) -> Iterator[Program]:
    count = len(program.operations)
    width = count
    while width:  # halves, quarters, ... of the operations left out
        for start in range(0, count, width):
            rest = program.operations[:start] + program.operations[start + width :]
            yield Program(program.kind, program.setup, rest)
        width //= 2
    for i, operation in enumerate(program.operations):
        for simple in _simpler_record(operation):
            operations: list[Operation] = list(program.operations)
            operations[i] = simple
            yield Program(program.kind, program.setup, operations)
    for setup in _simpler_record(program.setup):
        yield Program(program.kind, setup, program.operations)


def _simpler_record(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in record.items():
        options: list[Any] = []
        if name in PLAIN and value != PLAIN[name]:
            options.append(PLAIN[name])
        if (
            isinstance(value, list)
            and len(value) > 1
            and name not in ("plan", "stop", "plant", "refuse", "fail")
        ):
            options += [value[:1], value[:-1]]
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], int):
            options += [[v] for v in (1, value[0] // 2, value[0] - 1) if 0 < v < value[0]]
        if type(value) is int and name not in ("seed", "which", "poison"):
            options += [v for v in (value // 2, value - 1) if 0 < v < value]
        for option in options:
            changed = copy.deepcopy(record)
            changed[name] = option
            yield changed
