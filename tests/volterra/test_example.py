"""The example draws its picture."""

from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "equations.py"


def test_it_draws(tmp_path, capsys):
    picture = tmp_path / "equations.svg"
    main = runpy.run_path(str(EXAMPLE))["main"]
    main(["--out", str(picture), "--steps", "128", "--paths", "40"])
    assert "fractional oscillator" in picture.read_text()
    assert capsys.readouterr().out == f"wrote {picture}\n"
