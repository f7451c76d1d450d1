"""Prompts beside torch.fft: gates, rows of their own, and a measurement that only a GPU has."""

from __future__ import annotations

import pytest

from bench.__main__ import main
from bench.commands import prefill
from bench.harness.rows import read


def rows_of(tmp_path, *options):
    file = tmp_path / "rows.csv"
    assert main(["prefill", "--repeats", "1", *options, "--csv", str(file)]) == 0
    return read([file])


def test_each_implementation_with_gates(tmp_path):
    """Beside torch.fft at its fastest length, whose error counts like ours."""
    options = ("--shapes", "1,40,8", "--prompts", "30,21x3", "--gated", "--impl", "each")
    found = rows_of(tmp_path, *options)
    assert {(row["P"], row["B"]) for row in found} == {("30", "1"), ("21", "3")}
    ours = [row for row in found if row["variant"].startswith("ours, reference")]
    assert [row["variant"] for row in ours] == [
        "ours, reference", "ours, reference, spectra kept",
    ] * 2  # fmt: skip
    assert {row["limit"] for row in ours} == {"1"}
    assert all(row["note"].startswith("with gates") for row in found)
    torchs = [row["variant"] for row in found if row["impl"] == "torch"]
    assert len(torchs) == 2
    assert torchs[0] in {f"torch.fft, {n} points" for n in (70, 72, 80, 128)}


def test_an_implementation_that_cannot_run_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(prefill, "names_of", lambda *a: ["cuda", "reference"])
    file = tmp_path / "rows.csv"
    assert main(["prefill", "--quick", "--csv", str(file)]) == 1
    found = [row for row in read([file]) if row["P"] == "100"]
    assert [row["status"][:20] for row in found] == ["failed: RuntimeError", "ok", "ok", "ok"]


def test_what_is_faster_than_torch_is_below_one(tmp_path):
    found = rows_of(tmp_path, "--shapes", "1,8,8", "--prompts", "300")
    ours, _, torch = found
    expected = float(ours["p50"]) / float(torch["p50"])
    assert float(ours["value"]) == pytest.approx(expected, rel=1e-6)
