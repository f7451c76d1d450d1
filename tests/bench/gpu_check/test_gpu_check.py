"""The device check on the CPU: planted failures, limits, tests that are not reached."""

from __future__ import annotations

import json
import sys
import time

import pytest

from bench.gpu_check import run_tests
from bench.gpu_check.__main__ import main, stages_of
from bench.gpu_check.sanitizer import errors_of
from bench.gpu_check.stages import Stage, line, run


def stage(name, code, limit=20.0, rows=None):
    return Stage(name, limit, (sys.executable, "-c", code), rows)


def test_no_stage_hides_the_next(tmp_path):
    """One fails, one hangs with a child of its own, one dies: each keeps its limit and what it
    said, and the last one runs.
    """
    alive = str(tmp_path / "alive")
    child = f"import time; time.sleep(6); open({alive!r}, 'w')"
    hang = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}])\n"
    hang += "print('summary: 1 of 9', flush=True); time.sleep(60)"
    start = time.monotonic()
    results = run(
        [
            stage("fails", "print('summary: two'); raise SystemExit(3)"),
            stage("hangs", hang, 2.0),
            stage("dies", "import os; os.abort()"),
            stage("passes", "print('first'); print('last')"),
        ],
        tmp_path / "out",
        say=lambda text: None,
    )
    assert time.monotonic() - start < 20
    assert [r.status for r in results] == ["failed (3)", "timed out", "failed (-6)", "passed"]
    assert [r.summary for r in results] == ["two", "1 of 9", "", "last"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [entry["name"] for entry in report] == ["fails", "hangs", "dies", "passes"]
    assert "first" in (tmp_path / "out" / "log.txt").read_text()
    assert "timed out" in line(results[1])
    time.sleep(max(0.0, 8.5 - (time.monotonic() - start)))
    assert not (tmp_path / "alive").exists()


def test_rows_that_were_written_count(tmp_path):
    rows = tmp_path / "some.csv"
    code = f"open({str(rows)!r}, 'w').write('head\\n1\\n2\\n'); raise SystemExit('no memory')"
    (result,) = run([stage("bench", code, rows=rows)], tmp_path, say=lambda text: None)
    assert result.summary == "2 rows in some.csv; no memory"


def test_limits_are_six_minutes_together(tmp_path):
    stages = stages_of("cuda", tmp_path, False)
    assert sum(stage.limit for stage in stages) <= 360
    files = {stage.rows for stage in stages if stage.rows}
    assert len(files) + len({"log.txt", "report.json", "tests.json"}) <= 8


def planted(folder, text):
    """A file of tests in a folder whose conftest takes --device."""
    (folder / "conftest.py").write_text(
        "def pytest_addoption(parser): parser.addoption('--device')"
    )
    file = folder / "test_planted.py"
    file.write_text(text)
    return str(file)


def test_tests_that_are_not_reached_are_named(tmp_path, capsys):
    file = planted(
        tmp_path,
        "import time, pytest\n"
        "def test_passes(): pass\n"
        "def test_fails(): assert False\n"
        "def test_skips(): pytest.skip('no')\n"
        "def test_hangs(): time.sleep(60)\n"
        "def test_after_it(): pass\n",
    )
    options = ["--device", "cpu", "--shards", "1", "--seconds", "14", "--out", str(tmp_path)]
    assert run_tests.main([*options, file]) == 1
    output = capsys.readouterr().out
    assert "summary: 1 failed, 2 not reached, 1 passed, 1 skipped" in output
    names = json.loads((tmp_path / "tests.json").read_text())
    assert [n.split("::")[1] for n in names["not reached"]] == ["test_after_it", "test_hangs"]
    assert [n.split("::")[1] for n in names["failed"]] == ["test_fails"]


def test_shards_are_all_tests(tmp_path, capsys):
    file = planted(tmp_path, "\n".join(f"def test_{i}(): pass" for i in range(5)))
    options = ["--device", "cpu", "--shards", "2", "--seconds", "60", "--out", str(tmp_path)]
    assert run_tests.main([*options, file]) == 0
    assert "summary: 0 failed, 0 not reached, 5 passed, 0 skipped" in capsys.readouterr().out


def test_what_the_sanitizer_counts():
    assert errors_of("========= ERROR SUMMARY: 0 errors") == 0
    assert errors_of("========= RACECHECK SUMMARY: 2 hazards displayed (2 errors)") == 2
    assert errors_of("killed") is None


def test_a_device_that_is_not_there(tmp_path, capsys):
    assert main(["--device", "cuda:77", "--only", "environment", "--out", str(tmp_path)]) == 1
    assert "'cuda:77' is not there" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_check_on_the_cpu(tmp_path, capsys):
    status = main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    assert status == 0, capsys.readouterr().out
    names = {path.name for path in tmp_path.rglob("*")}
    assert len(names) <= 8
    assert {"kernels.csv", "decode.csv", "model.csv", "prompts.csv", "report.json"} <= names
