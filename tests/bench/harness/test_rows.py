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
