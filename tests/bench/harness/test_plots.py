"""Plots of a run."""

from __future__ import annotations

from bench.__main__ import main


def test_plots_are_drawn_from_rows(tmp_path):
    assert main(["step", "--quick", "--plots", str(tmp_path)]) == 0
    assert "</svg>" in (tmp_path / "step.svg").read_text()
