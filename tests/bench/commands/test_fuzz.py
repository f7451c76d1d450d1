"""The campaign finds a planted fault, shrinks it, and repeats it."""

from __future__ import annotations

import re
import shlex

import pytest

from bench.__main__ import main
from bench.campaign.program import Program, parse
from bench.campaign.shrink import shrunk
from bench.harness.rows import read
from futurefill_kernels.implementations import reference


def test_a_planted_fault_is_found_shrunk_and_repeated(monkeypatch, capsys, tmp_path):
    """A level that fires for the first row alone."""
    fill = reference.fill

    def faulty(state, level, rows):
        fill(state, level, state.positions.new_tensor([0]) if rows is None else rows[:1])

    csv = str(tmp_path / "rows.csv")
    arguments = ["fuzz", "--impl", "reference", "--seconds", "2", "--shrink", "2", "--csv", csv]
    with monkeypatch.context() as inside:
        inside.setattr(reference, "fill", faulty)
        assert main(arguments) == 1
        printed = capsys.readouterr().err
        assert "times the bound" in printed
        assert any("failures" in row["note"] for row in read([tmp_path / "rows.csv"]))
        replays = re.findall(r"python -m bench (fuzz --replay .*)", printed)
        shortest = min(replays, key=len)
        assert main(shlex.split(shortest)) == 1
    assert main(shlex.split(shortest)) == 0
    assert len(parse(shlex.split(shortest)[2]).operations) <= 3


def test_one_program_of_a_seed(capsys):
    assert main(["fuzz", "--impl", "cpu", "--seed", "3", "--program", "1"]) == 0
    assert "1 programs, 0 failures" in capsys.readouterr().out


def test_what_is_no_program_is_refused(capsys):
    assert main(["fuzz", "--replay", "steps"]) == 1
    assert "expected a program as fuzz prints it, got 'steps'" in capsys.readouterr().err


def test_shrinking_keeps_what_matters():
    setup = {"batch": 5, "dtype": "float64", "taps": [9, 7], "seed": 3}
    operations = [{"do": "steps", "count": 9, "rows": [1, 2]}, {"do": "reset"}, {"do": "save"}]

    def fails(program):
        return {"do": "reset"} in program.operations and program.setup["taps"][0] >= 5

    short = shrunk(Program("stream", setup, operations), fails)
    assert short.operations == [{"do": "reset"}]
    assert short.setup == {"batch": 1, "dtype": "float32", "taps": [5], "seed": 3}


@pytest.mark.slow
def test_ten_minutes_of_random_programs(capsys):
    assert main(["fuzz", "--seconds", "600", "--seed", "1"]) == 0, capsys.readouterr().err
