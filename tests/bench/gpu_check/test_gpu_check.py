"""The device check on the CPU: planted failures, limits, tests that are not reached."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch

from bench.commands.gpu_fills import BLOCKS
from bench.gpu_check import run_tests
from bench.gpu_check.__main__ import main, stages_of
from bench.gpu_check.jobs import Kernels, Prototype, jobs_of_times
from bench.gpu_check.sanitizer import errors_of
from bench.gpu_check.stages import Stage, line, run
from bench.harness.rows import Report
from futurefill_kernels.planning.device import DeviceInfo


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


@pytest.mark.parametrize("part", [1, 2])
def test_limits_of_a_part_are_eight_minutes_together(tmp_path, part):
    stages = stages_of("cuda", tmp_path, False, part)
    assert sum(stage.limit for stage in stages) <= 480
    files = {stage.rows for stage in stages if stage.rows}
    others = {"log.txt", "report.json"} | ({"rates.json"} if part == 1 else {"tests.json"})
    assert len(files) + len(others) <= 8


def test_the_parts_have_every_stage_once(tmp_path):
    names = [stage.name for part in (1, 2) for stage in stages_of("cuda", tmp_path, False, part)]
    assert {name for name in names if names.count(name) > 1} == {"environment", "compile"}
    assert {"fills", "prompts", "tune", "regret", "first-token", "chunks"} <= set(names)


def test_the_prototype_goes_to_its_stages(tmp_path):
    stages = stages_of("cuda", tmp_path, False, 1, tmp_path / "own.py")
    told = [s.name for s in stages if f"--prototype {tmp_path / 'own.py'}" in " ".join(s.command)]
    assert told == ["compile", "fills"]


def judged(path, *found):
    """Writes rows (variant, quantity, value, limit) as a bench does."""
    report = Report("bench", "command", 1, path, None)
    for variant, quantity, value, limit in found:
        report.add(variant, quantity=quantity, value=value, limit=limit, B=1, L=64)


def test_a_stage_is_measured_or_too_slow(tmp_path):
    """Whatever was too slow is counted and named, also where the stage was ended; the next runs."""
    fast, slow = tmp_path / "fast.csv", tmp_path / "slow.csv"
    judged(fast, ("cuda", "of the floor", 2.5, 2.5), ("cuda", "of torch.fft", 0.5, 1.0))
    judged(
        slow, ("cuda", "of the floor", 2.0, 2.5), ("cuda", "of the floor", 3.0, 2.5),
        ("triton", "of the floor", 3.4, 3.5),
    )  # fmt: skip
    hang = "import time; time.sleep(60)"
    results = run(
        [
            stage("fast", "", rows=fast), stage("slow", "", rows=slow),
            stage("failed", "raise SystemExit(1)", rows=fast), stage("ended", hang, 2.0, rows=slow),
        ],
        tmp_path / "out", say=lambda text: None,
    )  # fmt: skip
    assert [r.status for r in results] == ["measured", "too slow", "failed (1)", "timed out"]
    assert results[0].summary == (
        "2 rows in fast.csv; cuda of the floor: 1 of 1, worst 2.50 (at most 2.5) at B=1 L=64; "
        "cuda of torch.fft: 1 of 1, worst 0.50 (at most 1) at B=1 L=64"
    )
    assert "cuda of the floor: 1 of 2, worst 3.00 (at most 2.5) at B=1 L=64" in results[3].summary


def test_too_slow_is_no_success(tmp_path, monkeypatch):
    slow = tmp_path / "slow.csv"
    judged(slow, ("cuda", "of the floor", 3.0, 2.5))
    monkeypatch.setattr(
        "bench.gpu_check.__main__.stages_of", lambda *a: [stage("slow", "", rows=slow)]
    )
    assert main(["--out", str(tmp_path), "--part", "1"]) == 1


def test_what_is_compiled_is_there_by_its_name():
    """Of every kernel that the first part warms, its launches; each size once."""
    info = DeviceInfo.named("h200")
    found = [job for job in jobs_of_times(None) if isinstance(job, Kernels)]
    assert len({(job.sizes, job.name) for job in found}) == len(found)
    fills = {job.name for job in found if job.name.startswith("fill")}
    assert fills == {f"fill of {block}" for block in (8, *BLOCKS)}
    pytest.importorskip("triton")
    for job in found:
        assert stream_launches_of(job, info)


def stream_launches_of(job, info):
    from futurefill_kernels.implementations.triton_kernels.ahead import stream_launches

    return stream_launches(job.sizes, info)[job.name]


def test_a_prototype_is_compiled_by_running_it(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "def make_fill(ring, spectra, positions):\n"
        "    if ring.shape[2] != 32:\n"
        "        return None\n"
        f"    return lambda: open({str(tmp_path / 'called')!r}, 'w').close()\n"
    )
    for block in (32, 16):
        assert not (tmp_path / "called").exists()
        Prototype(file, block, 32).run(torch.device("cpu"), "triton")
    assert (tmp_path / "called").exists()


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
@pytest.mark.parametrize("part", [1, 2])
def test_the_whole_check_on_the_cpu(tmp_path, capsys, part):
    options = ["--part", str(part), "--out", str(tmp_path)]
    status = main(["--device", "cpu", "--quick", *options])
    assert status == 0, capsys.readouterr().out
    names = {path.name for path in tmp_path.rglob("*")}
    assert len(names) <= 8
    times = {"fills", "prompts", "regret", "first-token", "chunks"}
    tables = times if part == 1 else {"kernels", "decode", "model"}
    assert {f"{table}.csv" for table in tables} | {"report.json"} <= names
    assert part == 2 or "rates.json" in names
