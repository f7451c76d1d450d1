"""Comparing with another commit."""

from __future__ import annotations

from bench.__main__ import main


def test_unknown_base(capsys):
    assert main(["stream", "--quick", "--base", "no-such-ref"]) == 1
    assert "no-such-ref" in capsys.readouterr().err
