"""Every error of the package is provoked: by the tables here, which compare the state before and
after, or by a test of its own that is named here.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import futurefill_kernels as ff
from futurefill_kernels import native
from tests.bad_calls.recorded import VARIABLE

PACKAGE = Path(ff.__file__).parent
HERE = Path(__file__)
ROOT = HERE.parents[2]


def elsewhere():
    """Of a file and function that raise what no table here provokes: how many statements do, and
    the tests, with their files from tests/ on, that provoke them.
    """
    found = {}
    for line in HERE.with_name("elsewhere.txt").read_text().splitlines():
        file, function, count, *tests = line.split()
        found[file, function] = int(count), tests
    return found


def raises():
    """(file, function, lines) of every statement that raises something new."""

    def inside(node, names):
        for child in ast.iter_child_nodes(node):
            here = names
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                here = [*names, child.name]
            if isinstance(child, ast.Raise) and child.exc is not None:
                yield ".".join(names) or "module", range(child.lineno, child.end_lineno + 1)
            yield from inside(child, here)

    for file in sorted(PACKAGE.rglob("*.py")):
        for function, lines in inside(ast.parse(file.read_text()), []):
            yield file, function, lines


@pytest.mark.skipif(
    native.cpu_unavailable_reason() is not None,
    reason=f"errors of the compiled kernels need them: {native.cpu_unavailable_reason()}",
)
def test_every_raise_is_provoked(tmp_path):
    """A new one needs a case in a table of this folder, or a test that elsewhere.txt names."""
    out = tmp_path / "provoked.json"
    tables = [str(file) for file in HERE.parent.glob("test_*.py") if file != HERE]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.bad_calls.recorded", *tables]
    environment = {**os.environ, VARIABLE: str(out)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    provoked = {tuple(entry) for entry in json.loads(out.read_text())}
    missing = Counter(
        (file.relative_to(PACKAGE).as_posix(), function)
        for file, function, lines in raises()
        if not any((str(file), line) in provoked for line in lines)
    )
    assert missing == {key: count for key, (count, _) in elsewhere().items()}


def test_the_tests_that_are_named_are_there():
    functions = {}
    for key, (_, tests) in elsewhere().items():
        assert tests, key
        for test in tests:
            file, _, name = test.partition("::")
            if file not in functions:
                tree = ast.parse((ROOT / "tests" / file).read_text())
                functions[file] = {x.name for x in ast.walk(tree) if hasattr(x, "name")}
            assert name in functions[file], test
