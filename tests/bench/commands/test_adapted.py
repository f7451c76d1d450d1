"""``python -m bench adapted`` without public code says what is missing."""

from __future__ import annotations

import csv

from bench.__main__ import main
from bench.harness import public_code


def test_without_public_code_rows_say_so(tmp_path, monkeypatch):
    monkeypatch.delenv(public_code.VARIABLE, raising=False)
    path = tmp_path / "rows.csv"
    assert main(["adapted", "--quick", "--csv", str(path)]) == 0
    rows = list(csv.DictReader(path.open()))
    variants = ["HyenaDNA, order 2", "ours", "logits of the last position"]
    assert [row["variant"] for row in rows] == variants
    assert {row["status"] for row in rows} == {"missing"}
    assert all(public_code.VARIABLE in row["note"] for row in rows)
    monkeypatch.setenv(public_code.VARIABLE, str(tmp_path))
    assert "hyena-dna is not there" in public_code.missing("hyena-dna")
