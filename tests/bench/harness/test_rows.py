"""Rows: a wrong result stores no time, and shares of roofs."""

from __future__ import annotations

import csv
import json

from bench.harness import timing
from bench.harness.rows import Report, shares


def test_a_red_check_stores_no_time(tmp_path, capsys):
    report = Report("stream", "command", 1, tmp_path / "rows.csv", tmp_path / "rows.json")
    times = timing.Times((1.0, 2.0, 3.0))
    report.add("ours", times=times, tokens=5, error=2e-6, tolerance=1e-6, bytes=1, flops=1)
    report.add("nan", times=times, error=float("nan"), tolerance=1e-6)
    report.add("good", times=times, tokens=4, error=1e-7, tolerance=1e-6)
    assert report.failed
    assert "WRONG" in capsys.readouterr().out
    wrong, nan, good = csv.DictReader((tmp_path / "rows.csv").open())
    assert wrong["status"] == nan["status"] == "wrong"
    assert wrong["p50"] == wrong["tokens_per_s"] == nan["p50"] == ""
    assert (good["status"], good["p50"], good["tokens_per_s"]) == ("ok", "2", "2")
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 3


def test_shares_of_the_measured_roofs():
    """Each roof has its own share; a row without time, bytes or FLOPs has none."""
    row = {"bytes": "3e9", "roof_bytes_per_s": "6e9", "flops": "", "roof_flops": "5e9", "p50": "2"}
    assert shares(row) == (0.25, None)
    assert shares(row | {"flops": "8e9"}) == (0.25, 0.8)
    assert shares(row | {"p50": ""}) == (None, None)


def test_a_limit_gives_a_verdict(tmp_path, capsys):
    """No exit status comes of it; what is wrong has no value to judge."""
    report = Report("stream", "command", 1, tmp_path / "rows.csv", None)
    report.add("fast", quantity="of the floor", value=2.5, limit=2.5)
    report.add("slow", quantity="of the floor", value=2.6, limit=2.5)
    assert not report.failed
    report.add("red", quantity="of the floor", value=1.0, limit=2.5, error=1.0, tolerance=0.1)
    assert "(at most 2.5) TOO SLOW" in capsys.readouterr().out
    fast, slow, red = csv.DictReader((tmp_path / "rows.csv").open())
    assert [row["verdict"] for row in (fast, slow, red)] == ["measured", "too slow", ""]
    assert red["value"] == ""
    unjudged = Report("stream", "command", 1, None, None, judges=False)
    assert unjudged.add("slow", quantity="of the floor", value=9.0, limit=1.0).verdict == ""


def test_a_missing_result_is_a_failure():
    report = Report("stream", "command", 1, None, None)
    with report.guard("ours", B=1):
        raise RuntimeError("out of\n memory")
    assert not report.add("peer").status.startswith("failed")
    assert report.rows[0].status == "failed: RuntimeError: out of memory"
    assert report.failed
