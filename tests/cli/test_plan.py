"""plan: the planner's choice, and the page of choices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from futurefill_kernels import DeviceInfo, Plan, make_plan
from futurefill_kernels.__main__ import main
from futurefill_kernels.cli.plan_table import blocks_text, rows_that_fit
from futurefill_kernels.planning.gpu_plan import leanest_plan
from futurefill_kernels.planning.memory import needed_nbytes, usable_bytes
from futurefill_kernels.planning.workload import Workload

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


def test_plan_prints_what_a_state_of_16_bits_takes(capsys):
    half, sizes = torch.bfloat16, ["--length", "5000", "--channels", "64"]
    narrow = ["--state-dtype", "bfloat16", "--filters-dtype", "bfloat16"]
    assert main(["plan", *sizes, *narrow]) == 0
    plan = make_plan(5000, 64, state_dtype=half, filters_dtype=half)
    out = capsys.readouterr().out
    assert out.strip() == plan.explain(half, half)
    assert f"per bfloat16 channel: {plan.bytes_per_channel(half, half)} bytes" in out
    assert main(["plan", *sizes, "--block-sizes", "10,100", "--state-dtype", "float64"]) == 0
    given = Plan(5000, (10, 100))
    assert f"float64 channel: {given.bytes_per_channel(torch.float64)} bytes" in (
        capsys.readouterr().out
    )
    assert main(["plan", *sizes, *narrow, "--objective", "latency"]) == 2
    assert "expected state_dtype None or torch.float32" in capsys.readouterr().err


@pytest.mark.parametrize(("ring", "taps"), [(4, 4), (2, 4), (2, 2)])
@pytest.mark.parametrize("name", ["h100", "h200", "b200"])
def test_the_rows_that_fit_do_and_one_more_does_not(name, ring, taps):
    info = DeviceInfo.named(name)
    rows, nbytes = rows_that_fit(info, 4096, ring, taps)

    def needed(rows):
        w = Workload(65536, 65536, 4096, rows, 24, 4096, ring_itemsize=ring, filters_itemsize=taps)
        return needed_nbytes(w, leanest_plan(w, info))

    assert needed(rows) <= usable_bytes(info) < needed(rows + 1)
    assert needed(rows + 1) - needed(rows) == nbytes


def test_a_device_without_room_for_one_row_has_room_for_none():
    assert rows_that_fit(DeviceInfo.named("l4"), 4096, 4, 4)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--table --device h100 --state-dtype float16", "expected no --state-dtype with --table"),
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
