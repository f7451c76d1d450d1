"""`plan` prints what the planner chose."""

from __future__ import annotations

from futurefill_kernels import make_plan
from futurefill_kernels.__main__ import main


def test_plan_prints_the_planners_choice(capsys):
    assert main(["plan", "--length", "5000", "--channels", "64"]) == 0
    assert capsys.readouterr().out.strip() == make_plan(5000, 64).explain()
    assert main(["plan", "--length", "5000", "--block-sizes", "10,100"]) == 0
    assert "blocks of 10" in capsys.readouterr().out
