"""plan: the planner's choice, and the page of choices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from futurefill_kernels import make_plan
from futurefill_kernels.__main__ import main
from futurefill_kernels.cli.plan_table import blocks_text

PAGE = Path(__file__).parents[2] / "docs" / "planner.md"


def test_the_page_is_what_the_command_prints(capsys):
    assert main(["plan", "--device", "all", "--table"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()


def test_all_devices_need_the_table(capsys):
    assert main(["plan", "--device", "all"]) == 2
    assert "--device all needs --table" in capsys.readouterr().err
    assert main(["plan", "--device", "h100", "--table", "--impl", "cuda"]) == 2
    assert "--table is for --impl auto, got cuda" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((8,), "8"),
        ((8, 16), "8, 16"),
        ((16, 32, 64, 256, 1024), "16 .. 64, 256, 1024"),
        ((16, 64, 128, 256), "16, 64 .. 256"),
    ],
)
def test_runs_of_radix_two_are_short(sizes, text):
    assert blocks_text(sizes) == text


def test_plan_prints_the_planners_choice(capsys):
    assert main(["plan", "--length", "5000", "--channels", "64"]) == 0
    assert capsys.readouterr().out.strip() == make_plan(5000, 64).explain()
    assert main(["plan", "--length", "5000", "--block-sizes", "10,100"]) == 0
    assert "blocks of 10" in capsys.readouterr().out


def test_plan_prints_what_takes_least_memory(capsys):
    assert main(["plan", "--length", "5000", "--channels", "64", "--memory", "small"]) == 0
    assert capsys.readouterr().out.strip() == make_plan(5000, 64, memory="small").explain()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--table --device h100 --memory small", "expected no --memory with --table"),
        (
            "--block-sizes 10,100 --devices 2 --memory small",
            "expected no --devices and no --memory with --block-sizes",
        ),
        ("--device h100 --devices 2 --impl cuda", "expected no --impl with --devices"),
    ],
)
def test_options_that_would_not_be_read_are_refused(arguments, message, capsys):
    assert main(["plan", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_the_table_of_ranks_says_where_it_fits_and_what_pays(capsys):
    sizes = ["--channels", "8192", "--layers", "48", "--length", "65536", "--device", "h100"]
    assert main(["plan", *sizes, "--devices", "8"]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| ") and "us" not in line]
    assert [row.split(" | ")[0] for row in rows] == ["| 1", "| 2", "| 4", "| 8"]
    assert "does not fit" in rows[0]
    assert re.search(r"It fits from [48] on", out)
    assert main(["plan", *sizes, "--devices", "8", "--latency", "5000"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"It fits from (\d+) on. The shortest token is that of \1[;,]", out)
    assert main(["plan", *sizes, "--devices", "3"]) == 2
    assert "3 ranks do not divide channels = 8192" in capsys.readouterr().err
    assert main(["plan", *sizes, "--devices", "0"]) == 2
    assert "expected --devices >= 1, got 0" in capsys.readouterr().err
